"""ONNX files: small, with a free batch axis, the same bytes each time, in every precision."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedeploy.errors import ExportError
from edgedeploy.export import onnx_dynamic, onnx_graph, onnx_int8, onnx_operators, onnx_weights, trained_scales
from edgedeploy.export.capture import capture, explain
from edgedeploy.export.onnx_given import given
from edgedeploy.export.onnx_halves import halve
from edgedeploy.export.onnx_inner import tracer as tracer
from edgedeploy.export.shared import Written, size_note, tensor_names
from edgedeploy.quiet import quiet
from edgedeploy.records import ONNX_OPSET, Precision, Target
from edgedeploy.task import OnnxSource, Task
from edgedeploy.tracing import COMPILER_ERRORS, sample

if TYPE_CHECKING:
    from torch import nn

_IR_VERSION = 8


def tools(precision: Precision) -> tuple[str, ...]:  # noqa: ARG001  every precision goes through all of them
    """Distributions whose version can change the file or what is measured of it on the host."""
    return ("onnx", "onnx-ir", "onnxruntime", "onnxscript", "onnxslim", "torch")


def convert(model: nn.Module, task: Task, path: Path, batch: int | None = None) -> None:
    """Write the net in float32 to `path`, names included, for `batch` examples at once or any. Raises ExportError."""
    source: OnnxSource | None = getattr(model, "onnx_source", None)
    proto = _convert(model, task, batch) if source is None else given(model, source, batch)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def layers(source: Path) -> tuple[str, ...]:
    """The layers of a converted file that hold weights, in its order."""
    import onnx

    proto = onnx.load(source)
    return () if trained_scales.are_in_onnx(proto) else onnx_graph.layers(proto.graph)


def quantise(source: Path, target: Target, task: Task, path: Path, keep_float: Collection[str]) -> Written:
    """Write a converted file to `path` as `target` says, but for the layers `keep_float`. Raises ExportError."""
    import onnx

    floats = onnx.load(source)
    proto = _quantised(source, target, task, keep_float)
    if trained_scales.are_in_onnx(floats):
        operators = trained_scales.operators(proto)
    else:
        operators = onnx_operators.read_back(floats, proto, target.precision, keep_float)
    notes = onnx_operators.notes(operators, target.precision)
    proto = _strip(proto)
    if target.precision in (Precision.INT8, Precision.INT8_DYNAMIC):
        notes += size_note(proto.ByteSize(), _strip(floats).ByteSize())
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exporter wrote an invalid ONNX graph: {str(error).splitlines()[0]}") from error
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return Written(notes, operators)


def _quantised(source: Path, target: Target, task: Task, keep_float: Collection[str]) -> Any:
    import onnx

    proto = onnx.load(source)
    if trained_scales.are_in_onnx(proto):
        return trained_scales.to_onnx(proto, target)
    match target.precision:
        case Precision.FP16:
            return halve(proto, keep_float)
        case Precision.W8 | Precision.W4:
            bits = 8 if target.precision is Precision.W8 else 4
            onnx_weights.store(proto.graph, list(onnx_graph.weights(proto.graph, keep_float)), bits)
        case Precision.INT8_DYNAMIC:
            onnx_dynamic.quantise(proto, keep_float)
        case Precision.INT8 | Precision.INT16X8:
            return onnx_int8.quantise(proto, source, target, task, keep_float)
    return proto


def outputs(source: Path) -> dict[str, str]:
    """For each module of the net the tensor of a converted file that holds its output, or each tensor by its name.

    The latter where the net came as a graph, without modules.
    """
    import onnx

    graph = onnx.load(source).graph
    return onnx_graph.last_outputs(graph) or {name: name for node in graph.node for name in node.output}


def named(source: Path, target: Target, task: Task, keep_float: Collection[str]) -> bytes:
    """What `quantise` writes, with its names. Raises ExportError."""
    return bytes(_quantised(source, target, task, keep_float).SerializeToString(deterministic=True))


def strip(content: bytes) -> bytes:
    """A named file as `quantise` writes it."""
    import onnx

    return bytes(_strip(onnx.load_from_string(content)).SerializeToString(deterministic=True))


def constant_bytes(content: bytes) -> int:
    """What the constants of a file take in it, without their names and shapes."""
    import onnx

    return sum(_content_bytes(tensor) for tensor in onnx.load_from_string(content).graph.initializer)


def _content_bytes(tensor: Any) -> int:
    from onnx import numpy_helper

    return len(tensor.raw_data) if tensor.HasField("raw_data") else int(numpy_helper.to_array(tensor).nbytes)


def describe(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The file's inputs and outputs, in its order: name, shape (None where it is free), type."""
    import onnx

    graph = onnx.load(path).graph
    return [_tensor(value) for value in graph.input], [_tensor(value) for value in graph.output]


def _tensor(value: Any) -> dict[str, Any]:
    import onnx

    kind = value.type.tensor_type
    return {
        "name": value.name,
        "shape": [axis.dim_value if axis.HasField("dim_value") else None for axis in kind.shape.dim],
        "type": onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name,
        "scale": None,
        "zero_point": None,
    }


def _convert(model: nn.Module, task: Task, batch: int | None = None) -> Any:
    # Two examples: with one, the exporter takes the 1 for a constant and freezes the batch of recurrent nets.
    inputs = sample(task.example, batch or 2)
    program = capture(model, inputs, dynamic_batch=batch is None)
    outputs = len(program.graph_signature.user_outputs)
    try:
        with quiet():
            import onnxslim
            import torch

            exported = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                external_data=False,
                opset_version=ONNX_OPSET,
                input_names=tensor_names("input", len(inputs)),
                output_names=tensor_names("output", outputs),
            )
            assert exported is not None  # None only where it writes the file itself
            paths = onnx_graph.scopes(exported.model_proto)
            # The exporter leaves dead nodes and a stack trace on each one: up to two thirds of a small file.
            proto = onnxslim.slim(exported.model_proto)
    except COMPILER_ERRORS as error:
        raise explain(error, model, inputs, "ONNX") from error
    del proto.graph.value_info[:]  # shapes of before the simplification, which quantisers trip over
    onnx_graph.name_layers(proto, paths, model)
    return proto


def _strip(proto: Any) -> Any:
    """Take away, in place, whatever no runtime needs: traces, inner names, shapes that can be inferred."""
    proto.ir_version = _IR_VERSION
    proto.doc_string = ""
    graph = proto.graph
    graph.name = "model"
    graph.doc_string = ""
    del proto.metadata_props[:], graph.metadata_props[:], graph.value_info[:], graph.quantization_annotation[:]
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        item.doc_string = ""
        del item.metadata_props[:]
    for value in (*graph.input, *graph.output):
        axes = value.type.tensor_type.shape.dim
        if axes and axes[0].dim_param:
            axes[0].dim_param = "batch"
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    if any(attribute.HasField("g") or attribute.graphs for attribute in attributes):
        return proto  # an inner graph refers to names of the outer one
    names: dict[str, str] = {value.name: value.name for value in (*graph.input, *graph.output)} | {"": ""}

    def short(name: str) -> str:
        return names.setdefault(name, np.base_repr(len(names), 36).lower())

    for tensor in graph.initializer:
        tensor.name = short(tensor.name)
    for node in graph.node:
        node.name = ""
        node.input[:] = [short(name) for name in node.input]
        node.output[:] = [short(name) for name in node.output]
    graph.value_info.extend(_where_sizes_meet(proto))
    return proto


def _where_sizes_meet(proto: Any) -> list[Any]:
    """The shapes of tensors whose inputs name one size differently, as a free batch axis before and after a reshape.

    There onnxruntime is left with a size that has no name at all, on which its layout pass (1.31) crashes; this
    was seen on a Transformer encoder in fp16.
    """
    import onnx

    graph = onnx.shape_inference.infer_shapes(proto).graph
    values = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}

    def sizes(names: Any) -> set[str]:
        axes = [axis for name in names if name in values for axis in values[name].type.tensor_type.shape.dim]
        return {axis.dim_param for axis in axes if axis.dim_param}

    inner = {value.name for value in graph.value_info}
    return [
        values[name]
        for node in graph.node
        if sum(name in values for name in node.input) > 1
        for name in node.output
        if name in inner and sizes([name]) - sizes(node.input)
    ]
