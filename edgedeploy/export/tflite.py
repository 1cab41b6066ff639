"""TFLite files: litert-torch writes the float one, ai-edge-quantizer halves it or makes it integer."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedeploy.errors import ExportError
from edgedeploy.export import tflite_names, trained_scales
from edgedeploy.export.capture import capture, explain, first_line
from edgedeploy.export.flatbuffer import read, tidy
from edgedeploy.export.shared import Written, size_note
from edgedeploy.export.tflite_inner import tracer as tracer
from edgedeploy.export.tflite_operators import notes, operator_uses
from edgedeploy.export.tflite_quantise import quantise_named
from edgedeploy.export.tflite_unrolling import refuse_long_recurrence
from edgedeploy.quiet import quiet
from edgedeploy.records import Precision, Target
from edgedeploy.task import Task
from edgedeploy.tracing import COMPILER_ERRORS, exportable, sample

if TYPE_CHECKING:
    from torch import nn


def tools(precision: Precision) -> tuple[str, ...]:
    """Distributions whose version can change the file or what is measured of it on the host."""
    quantiser = () if precision is Precision.FP32 else ("ai-edge-quantizer",)
    return ("ai-edge-litert", "litert-converter", "litert-torch", "torch", *quantiser)


def convert(model: nn.Module, task: Task, path: Path, batch: int | None = None) -> None:
    """Write the net in float32 to `path`, names included, for `batch` examples at once or one; marks `model`.

    Raises ExportError.
    """
    _convert(model, task, path, batch or 1)


def layers(source: Path) -> tuple[str, ...]:
    """The layers of a converted file that hold weights, in its order, by their path in the net."""
    model = read(source.read_bytes())
    return () if trained_scales.are_in_tflite(model) else tflite_names.layers(model)


def outputs(source: Path) -> dict[str, str]:
    """For each module of the net the tensor of a converted file that holds its output: see `tflite_names.outputs`."""
    return tflite_names.outputs(read(source.read_bytes()))


def quantise(source: Path, target: Target, task: Task, path: Path, keep_float: Collection[str]) -> Written:
    """Write a converted file to `path` as `target` says, but for the layers `keep_float`. Raises ExportError."""
    content = source.read_bytes()
    quantised, kept, masked = _quantised(content, source, target, task, keep_float)
    uses = operator_uses(read(quantised), target.precision, kept, masked)
    small, float_bytes = tidy(quantised), len(tidy(content))
    path.write_bytes(small)
    if target.precision is Precision.FP32:
        return Written(operators=uses)
    if quantised == content:
        uses = trained_scales.told(uses)
        return Written(notes(uses, target.precision), uses)
    size = size_note(len(small), float_bytes) if target.precision is Precision.INT8 else ()
    return Written((*notes(uses, target.precision), *size), uses)


def named(source: Path, target: Target, task: Task, keep_float: Collection[str]) -> bytes:
    """What `quantise` writes, with its names. Raises ExportError."""
    return _quantised(source.read_bytes(), source, target, task, keep_float)[0]


def strip(content: bytes) -> bytes:
    """A named file as `quantise` writes it."""
    return tidy(content)


def constant_bytes(content: bytes) -> int:
    """What the constants of a file take in it, without their names and shapes, and without scales."""
    model = read(content)
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    buffers = (model.buffers[index].data for index in used)
    return sum(len(data) for data in buffers if data is not None)


def _quantised(
    content: bytes, source: Path, target: Target, task: Task, keep_float: Collection[str]
) -> tuple[bytes, str | None, str | None]:
    """The file, and the patterns of what it keeps in float on request and for masks.

    It is the converted file itself where that was trained for int8.
    """
    model = read(content)
    if trained_scales.are_in_tflite(model):
        trained_scales.check_target(target)
        return content, None, None
    if target.precision is Precision.FP32:
        return content, None, None
    kept = tflite_names.keeping(keep_float, tflite_names.layers(model)) if keep_float else None
    quantised, masked = quantise_named(source, model, target, task, kept)
    return quantised, kept, masked


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
    refuse_long_recurrence(model, inputs)
    converter_errors: tuple[type[Exception], ...] = COMPILER_ERRORS
    try:
        with quiet():
            import litert_torch
            from litert_converter.mlir.ir import MLIRError

            converter_errors = (*COMPILER_ERRORS, MLIRError)
            tflite_names.mark(model)
            settings = trained_scales.litert_settings() if trained_scales.are_in(model) else None
            with exportable():
                converted = litert_torch.convert(model, inputs, quant_config=settings)
            converted.export(str(path))
            tflite_names.name_layers(path, model, inputs)
    except converter_errors as error:
        capture(model, inputs, dynamic_batch=False)  # says better what torch.export itself refuses
        raise explain(error, model, inputs, "TFLite") from error
