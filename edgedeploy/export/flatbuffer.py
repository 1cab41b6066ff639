"""A TFLite file is a flatbuffer whose tensor names can outweigh its weights: keep only what a caller needs."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np

from edgedeploy.errors import ExportError
from edgedeploy.export.shared import tensor_names
from edgedeploy.quiet import quiet

# TensorType of the schema.
FLOAT32 = 0
# Of the content of a buffer, in bytes; runtimes load vectors of floats straight from it.
_ALIGNMENT = 16


def read(content: bytes) -> Any:
    """The file as an object tree of its schema."""
    with quiet():
        from ai_edge_litert.tools import flatbuffer_utils

        return flatbuffer_utils.convert_bytearray_to_object(bytearray(content))


def write(model: Any) -> bytes:
    """The bytes of an object tree, with the weights aligned and vectors that hold the same written once.

    Shapes and zero points repeat themselves for each step of a recurrent net.
    """
    builder = _builder()(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


@cache
def _builder() -> Any:
    import flatbuffers

    class Sharing(flatbuffers.Builder):  # type: ignore[misc]
        """Returns the offset of an earlier vector where a new one holds the same bytes."""

        def __init__(self, size: int) -> None:
            super().__init__(size)
            self._written: dict[tuple[int, bytes], int] = {}
            self._begun: tuple[int, int, int] | None = None
            self.head: int

        def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:  # noqa: N802, N803
            # The generated code ignores the schema's `force_align: 16` of a buffer, the only large vector of bytes.
            aligned = _ALIGNMENT if elemSize == 1 and numElems >= _ALIGNMENT else alignment
            self._begun = (self.Offset(), elemSize * numElems, aligned)
            return super().StartVector(elemSize, numElems, aligned)

        def PrependUOffsetTRelative(self, off: int) -> None:  # noqa: N802
            self._begun = None  # the same bytes would point elsewhere
            super().PrependUOffsetTRelative(off)

        def EndVector(self, numElems: int | None = None) -> Any:  # noqa: N802, N803
            offset = super().EndVector(numElems)
            if self._begun is None:
                return offset
            (before, size, aligned), self._begun = self._begun, None
            content = bytes(self.Bytes[self.head : self.head + 4 + size])
            earlier: int = self._written.setdefault((aligned, content), offset)
            if earlier != offset:
                self.head = len(self.Bytes) - before
            return earlier

    return Sharing


def operator_name(model: Any, operator: Any) -> str:
    """What an operator is called in the schema."""
    code = model.operatorCodes[operator.opcodeIndex]
    return _builtin_names()[max(code.builtinCode, code.deprecatedBuiltinCode)]


def is_constant(model: Any, graph: Any, index: int) -> bool:
    """Whether a tensor comes with the file."""
    return index >= 0 and model.buffers[graph.tensors[index].buffer].data is not None


@cache
def _builtin_names() -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    return {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


def tidy(content: bytes) -> bytes:
    """Rename the inputs and outputs to input.. and output.., in the signature's order, and drop all other names.

    On an int8 Transformer encoder the names are two fifths of the file. Raises ExportError where two outputs are
    one tensor, which a file cannot tell apart.
    """
    model = read(content)
    (signature,) = model.signatureDefs
    main = model.subgraphs[signature.subgraphIndex]
    if any(buffer.offset > 1 for buffer in model.buffers):
        raise ExportError("the TFLite file is larger than 2 GB, which no board's runtime loads; make the net smaller")
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.name = None
            if tensor.quantization is not None and tensor.quantization.scale is None:
                tensor.quantization = None
    main.inputs = _name(main, signature.inputs, "input")
    main.outputs = _name(main, signature.outputs, "output")
    _merge_constants(model)
    _drop_unused(model)
    return write(model)


def _merge_constants(model: Any) -> None:
    """Keep one of the constants that hold the same, and drop what nobody uses: a quantiser makes one for each user."""
    for graph in model.subgraphs:
        first: dict[tuple[Any, ...], int] = {}
        instead = {
            index: first.setdefault(_content(model, tensor), index)
            for index, tensor in enumerate(graph.tensors)
            if is_constant(model, graph, index)
        }
        for operator in graph.operators:
            operator.inputs = [instead.get(int(index), int(index)) for index in operator.inputs]
    buffers, place = model.buffers[:1], dict[bytes, int]()
    for holder in (*(tensor for graph in model.subgraphs for tensor in graph.tensors), *(model.metadata or ())):
        data = model.buffers[holder.buffer].data
        if data is None:
            holder.buffer = 0
            continue
        if bytes(data) not in place:
            place[bytes(data)] = len(buffers)
            buffers.append(model.buffers[holder.buffer])
        holder.buffer = place[bytes(data)]
    model.buffers = buffers


def _drop_unused(model: Any) -> None:
    """Number anew the tensors that some operator, input or output still names."""
    for number, graph in enumerate(model.subgraphs):
        users = [*graph.operators, graph]
        used = sorted({int(index) for user in users for index in (*user.inputs, *user.outputs) if index >= 0})
        place = {old: new for new, old in enumerate(used)} | {-1: -1}
        for user in users:
            user.inputs = [place[int(index)] for index in user.inputs]
            user.outputs = [place[int(index)] for index in user.outputs]
        graph.tensors = [graph.tensors[index] for index in used]
        for signature in model.signatureDefs:
            if signature.subgraphIndex == number:
                for entry in (*signature.inputs, *signature.outputs):
                    entry.tensorIndex = place[int(entry.tensorIndex)]


def _content(model: Any, tensor: Any) -> tuple[Any, ...]:
    """What two constants must have in common to be one: numbers, type, shape and scales."""
    data, quantization = bytes(model.buffers[tensor.buffer].data), tensor.quantization
    shape = None if tensor.shape is None else tuple(int(size) for size in tensor.shape)
    if quantization is None:
        return data, tensor.type, shape
    scales = (np.asarray(values).tobytes() for values in (quantization.scale, quantization.zeroPoint))
    return data, tensor.type, shape, quantization.quantizedDimension, *scales


def _name(graph: Any, entries: list[Any], kind: str) -> list[int]:
    """Name the tensors of a signature and return their indices in the order of the net's own arguments."""
    entries.sort(key=position)
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


def position(entry: Any) -> int:
    """Which input or output of the net an entry of the signature is."""
    # litert-torch names them args_0, args_1, ... and output_0, output_1, ...: sorted as text, 10 precedes 2.
    number = re.search(rb"(\d+)$", entry.name)
    if number is None:
        raise ExportError(f"the exporter named a tensor {entry.name.decode()!r}, which does not tell its position")
    return int(number[1])
