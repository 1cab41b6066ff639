"""TFLite files: litert-torch writes the float one, ai-edge-quantizer halves it or makes it integer."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedeploy.errors import ExportError
from edgedeploy.export.capture import CONVERTER_ERRORS, capture, explain, exportable, first_line, sample
from edgedeploy.export.flatbuffer import tidy
from edgedeploy.export.shared import Written, size_note
from edgedeploy.export.tflite_quantise import to_fp16, to_int8
from edgedeploy.quiet import quiet
from edgedeploy.records import Precision, Target
from edgedeploy.task import Task

if TYPE_CHECKING:
    from torch import nn


def tools(precision: Precision) -> tuple[str, ...]:
    """Distributions whose version can change the file or what is measured of it on the host."""
    quantiser = () if precision is Precision.FP32 else ("ai-edge-quantizer",)
    return ("ai-edge-litert", "litert-converter", "litert-torch", "torch", *quantiser)


def convert(model: nn.Module, task: Task, path: Path, batch: int | None = None) -> None:
    """Write the net in float32 to `path`, names included, for `batch` examples at once or one. Raises ExportError."""
    _convert(model, task, path, batch or 1)


def layers(source: Path) -> tuple[str, ...]:
    """The layers of a converted file that hold weights, in its order."""
    raise NotImplementedError(source)


def quantise(source: Path, target: Target, task: Task, path: Path, keep_float: Collection[str]) -> Written:  # noqa: ARG001
    """Write a converted file to `path` as `target` says, but for the layers `keep_float`. Raises ExportError."""
    notes: tuple[str, ...] = ()
    content = tidy(source.read_bytes())
    if target.precision is Precision.FP16:
        content = tidy(to_fp16(source))
    elif target.precision is Precision.INT8:
        quantised, notes = to_int8(source, task, target.static_batch or 1)
        float_bytes, content = len(content), tidy(quantised)
        notes += size_note(len(content), float_bytes)
    path.write_bytes(content)
    return Written(notes)


def describe(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The file's inputs and outputs, in its order: name, shape, type, scale and zero point."""
    with quiet():
        from ai_edge_litert.interpreter import Interpreter

        try:
            interpreter = Interpreter(str(path))
        except (RuntimeError, ValueError) as error:
            raise ExportError(f"{path.name}: its own runtime refuses the exported file: {first_line(error)}") from error
        details = interpreter.get_input_details(), interpreter.get_output_details()
    return [_tensor(detail) for detail in details[0]], [_tensor(detail) for detail in details[1]]


def _tensor(detail: dict[str, Any]) -> dict[str, Any]:
    parameters = detail["quantization_parameters"]
    quantised = len(parameters["scales"]) > 0
    return {
        "name": detail["name"],
        "shape": [int(size) for size in detail["shape"]],
        "type": detail["dtype"].__name__,
        "scale": float(parameters["scales"][0]) if quantised else None,
        "zero_point": int(parameters["zero_points"][0]) if quantised else None,
    }


def _convert(model: nn.Module, task: Task, path: Path, batch: int) -> None:
    inputs = sample(task.example, batch)
    converter_errors: tuple[type[Exception], ...] = CONVERTER_ERRORS
    try:
        with quiet():
            import litert_torch
            from litert_converter.mlir.ir import MLIRError

            converter_errors = (*CONVERTER_ERRORS, MLIRError)
            with exportable():
                converted = litert_torch.convert(model, inputs)
            converted.export(str(path))
    except converter_errors as error:
        capture(model, inputs, dynamic_batch=False)  # says better what torch.export itself refuses
        raise explain(error, model, inputs, "TFLite") from error
