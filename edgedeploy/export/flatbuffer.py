"""A TFLite file is a flatbuffer whose tensor names can outweigh its weights: keep only what a caller needs."""

from __future__ import annotations

import re
from typing import Any

from edgedeploy.errors import ExportError
from edgedeploy.export.shared import tensor_names
from edgedeploy.quiet import quiet


def tidy(content: bytes) -> bytes:
    """Rename the inputs and outputs to input.. and output.., in the signature's order, and drop all other names.

    On an int8 Transformer encoder the names are two fifths of the file. Raises ExportError where two outputs are
    one tensor, which a file cannot tell apart.
    """
    with quiet():
        from ai_edge_litert.tools import flatbuffer_utils

        model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    (signature,) = model.signatureDefs
    main = model.subgraphs[signature.subgraphIndex]
    if any(buffer.offset > 1 for buffer in model.buffers):
        raise ExportError("the TFLite file is larger than 2 GB, which no board's runtime loads; make the net smaller")
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.name = b""
    main.inputs = _name(main, signature.inputs, "input")
    main.outputs = _name(main, signature.outputs, "output")
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _name(graph: Any, entries: list[Any], kind: str) -> list[int]:
    """Name the tensors of a signature and return their indices in the order of the net's own arguments."""
    entries.sort(key=_position)
    indices = [int(entry.tensorIndex) for entry in entries]
    for entry, name in zip(entries, tensor_names(kind, len(entries)), strict=True):
        tensor = graph.tensors[entry.tensorIndex]
        if tensor.name:
            raise ExportError(
                f"{tensor.name.decode()} and {name} of the net are one tensor, which a TFLite file cannot tell apart; "
                "return it once, or a copy"
            )
        tensor.name = entry.name = name.encode()
    return indices


def _position(entry: Any) -> int:
    # litert-torch names them args_0, args_1, ... and output_0, output_1, ...: sorted as text, 10 precedes 2.
    number = re.search(rb"(\d+)$", entry.name)
    if number is None:
        raise ExportError(f"the exporter named a tensor {entry.name.decode()!r}, which does not tell its position")
    return int(number[1])
