"""Finds the weights of a TFLite file by the flatbuffer's own offsets, since only where they lie is wanted."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from edgedeploy.packing.constants import Constant, Element, NotParsed

# TensorType of the schema.
_ELEMENTS = {
    0: Element.FLOAT32,
    1: Element.FLOAT16,
    2: Element.INT32,
    3: Element.UINT8,
    4: Element.INT64,
    6: Element.UINT8,
    7: Element.INT16,
    9: Element.INT8,
    10: Element.FLOAT64,
    12: Element.INT64,
    15: Element.INT32,
    16: Element.INT16,
    17: Element.UINT8,
    18: Element.FLOAT16,
}
# Places of fields in their tables.
_MODEL_SUBGRAPHS, _MODEL_BUFFERS = 2, 4
_GRAPH_TENSORS = 0
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_BUFFER, _TENSOR_NAME, _TENSOR_QUANTIZATION = 0, 1, 2, 3, 4
_QUANTIZATION_SCALE, _QUANTIZATION_ZERO_POINT = 2, 3
_BUFFER_DATA = 0


def constants(content: bytes) -> list[Constant]:
    """The buffers that tensors use, and their vectors of scales. Raises NotParsed."""
    try:
        return list(_found(content))
    except (struct.error, IndexError) as error:
        raise NotParsed("an offset in it points out of the file") from error


def _found(content: bytes) -> Iterator[Constant]:
    model = _Table(content, _u32(content, 0))
    buffers = model.tables(_MODEL_BUFFERS)
    seen: set[int] = set()
    for graph in model.tables(_MODEL_SUBGRAPHS):
        for number, tensor in enumerate(graph.tables(_GRAPH_TENSORS)):
            name = bytes(content[slice(*tensor.vector(_TENSOR_NAME, 1))]).decode("utf-8", "replace") or f"t{number}"
            kind = tensor.scalar(_TENSOR_TYPE, "b")
            buffer = tensor.scalar(_TENSOR_BUFFER, "I")
            shape = tensor.vector(_TENSOR_SHAPE, 4)
            sizes = struct.unpack_from(f"<{(shape[1] - shape[0]) // 4}i", content, shape[0])
            parts = []
            if 0 < buffer < len(buffers) and kind in _ELEMENTS:
                parts.append((name, *buffers[buffer].vector(_BUFFER_DATA, 1), _ELEMENTS[kind], sizes))
            for quantization in tensor.table(_TENSOR_QUANTIZATION):
                scales = quantization.vector(_QUANTIZATION_SCALE, 4)
                parts.append((f"{name} scales", *scales, Element.FLOAT32, ()))
                zeros = quantization.vector(_QUANTIZATION_ZERO_POINT, 8)
                parts.append((f"{name} zero points", *zeros, Element.INT64, ()))
            for what, start, end, element, dims in parts:
                if end > start and start not in seen:
                    seen.add(start)
                    yield Constant(what, start, end, element, dims)


def _u32(content: bytes, place: int) -> int:
    if place < 0:
        raise IndexError(place)
    return int(struct.unpack_from("<I", content, place)[0])


class _Table:
    """A table of a flatbuffer, at this place."""

    def __init__(self, content: bytes, place: int) -> None:
        self._content = content
        self._place = place
        self._fields = place - int(struct.unpack_from("<i", content, place)[0])
        if self._fields < 0:
            raise IndexError(self._fields)
        self._size = int(struct.unpack_from("<H", content, self._fields)[0])

    def _field(self, number: int) -> int | None:
        entry = 4 + 2 * number
        if entry + 2 > self._size:
            return None
        offset = int(struct.unpack_from("<H", self._content, self._fields + entry)[0])
        return self._place + offset if offset else None

    def scalar(self, number: int, form: str) -> int:
        """A number, 0 where it is left out."""
        field = self._field(number)
        return 0 if field is None else int(struct.unpack_from("<" + form, self._content, field)[0])

    def vector(self, number: int, item_bytes: int) -> tuple[int, int]:
        """Where the content of a vector starts and ends."""
        field = self._field(number)
        if field is None:
            return 0, 0
        place = field + _u32(self._content, field)
        start, end = place + 4, place + 4 + item_bytes * _u32(self._content, place)
        if end > len(self._content):
            raise IndexError(end)
        return start, end

    def table(self, number: int) -> Iterator[_Table]:
        """The table that a field points at, if any."""
        field = self._field(number)
        if field is not None:
            yield _Table(self._content, field + _u32(self._content, field))

    def tables(self, number: int) -> list[_Table]:
        """Those of a vector of tables."""
        start, end = self.vector(number, 4)
        return [_Table(self._content, place + _u32(self._content, place)) for place in range(start, end, 4)]
