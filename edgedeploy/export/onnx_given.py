"""A net that came as an ONNX file needs no export: its clean copy is the float file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgedeploy.errors import ExportError
from edgedeploy.export import onnx_graph
from edgedeploy.quiet import quiet
from edgedeploy.task import OnnxSource
from edgedeploy.tracing import COMPILER_ERRORS

if TYPE_CHECKING:
    from torch import nn


def given(model: nn.Module, source: OnnxSource, batch: int | None) -> Any:
    """The graph of the clean copy, with the batch asked for, None for any. Raises ExportError."""
    import onnx

    proto = onnx.load_from_string(source.content)
    if batch is not None and batch != source.frozen_batch:
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
        try:
            with quiet():
                import onnxslim

                proto = onnxslim.slim(proto)
        except COMPILER_ERRORS as error:
            raise ExportError(f"{source.file.name} cannot be cut to batches of {batch}: {error}") from error
        del proto.graph.value_info[:]
    onnx_graph.name_layers(proto, {}, model)  # by what they give, for there are no modules
    return proto
