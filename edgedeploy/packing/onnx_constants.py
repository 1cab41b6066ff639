"""Finds the weights of an ONNX file by the protobuf wire format, since only their offsets are wanted."""

from __future__ import annotations

from collections.abc import Iterator

from edgedeploy.packing.constants import Constant, Element, NotParsed

# TensorProto.DataType.
_ELEMENTS = {
    1: Element.FLOAT32,
    2: Element.UINT8,
    3: Element.INT8,
    4: Element.INT16,
    5: Element.INT16,
    6: Element.INT32,
    7: Element.INT64,
    9: Element.UINT8,
    10: Element.FLOAT16,
    11: Element.FLOAT64,
    12: Element.INT32,
    13: Element.INT64,
    16: Element.FLOAT16,
    17: Element.UINT8,
    18: Element.UINT8,
    19: Element.UINT8,
    20: Element.UINT8,
    21: Element.UINT8,
    22: Element.UINT8,
}
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_FUNCTION_NODE = 7
_NODE_ATTRIBUTE = 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = 5, 6, 10, 11, 22
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_FLOATS, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 4, 8, 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DEEPEST = 50


def constants(content: bytes) -> list[Constant]:
    """All tensors with raw data or packed floats, nested graphs and functions included. Raises NotParsed."""
    found: list[Constant] = []
    for field, start, end in _messages(content, 0, len(content)):
        if field == _MODEL_GRAPH:
            found += _in_graph(content, start, end, 0)
        elif field == _MODEL_FUNCTIONS:
            found += _in_nodes(content, start, end, _FUNCTION_NODE, 0)
    return found


def _in_graph(content: bytes, start: int, end: int, depth: int) -> Iterator[Constant]:
    if depth > _DEEPEST:
        raise NotParsed("its graphs are nested too deeply")
    yield from _in_nodes(content, start, end, _GRAPH_NODE, depth)
    for field, inner, inner_end in _messages(content, start, end):
        if field == _GRAPH_INITIALIZER:
            yield from _tensor(content, inner, inner_end)
        elif field == _GRAPH_SPARSE:
            yield from _sparse(content, inner, inner_end)


def _in_nodes(content: bytes, start: int, end: int, node: int, depth: int) -> Iterator[Constant]:
    for field, inner, inner_end in _messages(content, start, end):
        if field == node:
            for part, attribute, attribute_end in _messages(content, inner, inner_end):
                if part == _NODE_ATTRIBUTE:
                    yield from _in_attribute(content, attribute, attribute_end, depth)


def _in_attribute(content: bytes, start: int, end: int, depth: int) -> Iterator[Constant]:
    for field, inner, inner_end in _messages(content, start, end):
        if field in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
            yield from _tensor(content, inner, inner_end)
        elif field in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
            yield from _in_graph(content, inner, inner_end, depth + 1)
        elif field == _ATTRIBUTE_SPARSE:
            yield from _sparse(content, inner, inner_end)


def _sparse(content: bytes, start: int, end: int) -> Iterator[Constant]:
    for field, inner, inner_end in _messages(content, start, end):
        if field in (1, 2):  # values, indices
            yield from _tensor(content, inner, inner_end)


def _tensor(content: bytes, start: int, end: int) -> Iterator[Constant]:
    shape: list[int] = []
    kind, name, data = 0, "", (0, 0)
    for field, wire, inner, inner_end, value in _fields(content, start, end):
        if field == _TENSOR_DIMS:
            shape += [value] if wire == _VARINT else list(_varints(content, inner, inner_end))
        elif field == _TENSOR_TYPE:
            kind = value
        elif field == _TENSOR_NAME and wire == _BYTES:
            name = content[inner:inner_end].decode("utf-8", "replace")
        elif field == _TENSOR_RAW and wire == _BYTES:
            data = inner, inner_end
        elif field == _TENSOR_FLOATS and wire == _BYTES:
            data, kind = (inner, inner_end), 1
    if kind in _ELEMENTS and data[1] > data[0]:
        yield Constant(name, *data, _ELEMENTS[kind], tuple(shape))


def _messages(content: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    return (
        (field, inner, inner_end) for field, wire, inner, inner_end, _ in _fields(content, start, end) if wire == _BYTES
    )


def _fields(content: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Number, wire type, start and end of each field, and its value where it is a varint."""
    place = start
    while place < end:
        key, place = _varint(content, place, end)
        wire, inner, value = key & 7, place, 0
        if wire == _VARINT:
            value, place = _varint(content, place, end)
        elif wire == _BYTES:
            length, inner = _varint(content, place, end)
            place = inner + length
        elif wire in (_FIXED32, _FIXED64):
            place += 4 if wire == _FIXED32 else 8
        else:
            raise NotParsed(f"it has a field of wire type {wire}")
        if place > end:
            raise NotParsed("a field of it reaches beyond its message")
        yield key >> 3, wire, inner, place, value


def _varints(content: bytes, start: int, end: int) -> Iterator[int]:
    while start < end:
        value, start = _varint(content, start, end)
        yield value


def _varint(content: bytes, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while place < end and shift < 70:
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, place
        shift += 7
    raise NotParsed("a number in it has no end")
