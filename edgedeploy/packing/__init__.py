"""Makes an exported file as small as it goes for disk and wire; the board's `on_device/unpacking.py` rebuilds it."""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgedeploy.on_device import mixing, unpacking
from edgedeploy.packing import onnx_constants, tflite_constants
from edgedeploy.packing.constants import Constant, Element, NotParsed
from edgedeploy.packing.pieces import Encoder, Piece, stream, varint
from edgedeploy.packing.tensors import tensor
from edgedeploy.records import Format

__all__ = ["FORMAT", "VERSION", "Packed", "PackedTensor", "pack"]

FORMAT = "edpk"
# Raise it whenever the same file would give another container.
VERSION = 1
# Steps of the adaptive coder a file: seconds of a small board's Python.
MAX_DECISIONS = 300_000
# A tensor that is cut out costs its place and its head.
_LEAST_ENTRIES = 8

_READERS: dict[Format, Callable[[bytes], list[Constant]]] = {
    Format.ONNX: onnx_constants.constants,
    Format.TFLITE: tflite_constants.constants,
}


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """What became of a tensor: how many symbols, by which coders, in about how many bytes. `copies` cost nothing."""

    name: str
    symbols: int
    coder: str
    size_bytes: float
    copies: int = 1


@dataclass(frozen=True, slots=True)
class Packed:
    """A container and where its bytes go: header, skeleton (the graph) and each different tensor."""

    content: bytes
    header_bytes: int
    skeleton_bytes: float
    tensors: tuple[PackedTensor, ...]


def pack(content: bytes, file_format: Format, *, max_decisions: int = MAX_DECISIONS) -> Packed:
    """Pack a file, or any bytes at all; `unpack` gives them back bit by bit.

    `max_decisions` bounds the adaptive coder, which packs best and is slow: 100,000 of them take about a second of a
    desktop's Python. The same file gives the same container.
    """
    holes = _holes(content, file_format)
    skeleton = _skeleton(content, holes)
    numbers: dict[tuple[bytes, Element], int] = {}
    different: list[Constant] = []
    filled: list[int] = []  # by which of them, for each hole
    for hole in holes:
        filled.append(numbers.setdefault((content[hole.start : hole.end], hole.element), len(numbers)))
        if filled[-1] == len(different):
            different.append(hole)
    rest = stream(skeleton, max_decisions, text=True)
    left = max_decisions - rest.decisions
    pieces: dict[int, Piece] = {}
    # The adaptive coder gains most on what is small, where tables would cost.
    for number in sorted(range(len(different)), key=lambda number: different[number].end - different[number].start):
        constant = different[number]
        pieces[number] = tensor(content[constant.start : constant.end], constant.element, constant.shape, left)
        left -= pieces[number].decisions
    whole, place, written = Piece(varint(len(holes))), 0, 0
    for hole, number in zip(holes, filled, strict=True):
        whole += Piece(varint(hole.start - place) + varint(number))
        if number == written:
            whole += pieces[number]
            written += 1
        place = hole.end
    whole += rest
    copies = Counter(filled)
    tensors = [(constant, pieces[number], copies[number]) for number, constant in enumerate(different)]
    return _assembled(content, whole, rest, tensors)


def _holes(content: bytes, file_format: Format) -> list[Constant]:
    """The tensors that are worth a place of their own, in the order of the file, none over another."""
    try:
        found = _READERS[file_format](content)
    except NotParsed:
        return []
    holes: list[Constant] = []
    for constant in sorted(found, key=lambda constant: (constant.start, -constant.end)):
        entries, rest = divmod(constant.end - constant.start, constant.element.size_bytes)
        free = not holes or constant.start >= holes[-1].end
        if free and entries >= _LEAST_ENTRIES and not rest:
            holes.append(constant)
    return holes


def _skeleton(content: bytes, holes: list[Constant]) -> np.ndarray:
    kept = bytearray()
    place = 0
    for hole in holes:
        kept += content[place : hole.start]
        place = hole.end
    return np.frombuffer(bytes(kept + content[place:]), np.uint8)


def _assembled(content: bytes, whole: Piece, rest: Piece, tensors: list[tuple[Constant, Piece, int]]) -> Packed:
    coder = Encoder()
    mixing.code_bytes(coder, bytearray(whole.directory))
    directory_byte = coder.size_bytes() / len(whole.directory)
    for done in whole.done:
        coder.take(done)
    adaptive = coder.finish()
    sizes = varint(len(content)) + varint(len(whole.directory)) + varint(len(adaptive))
    body = hashlib.sha256(content).digest() + sizes + adaptive + whole.bulk
    container = unpacking.MAGIC + zlib.crc32(body).to_bytes(4, "little") + body

    def size(piece: Piece) -> float:
        return len(piece.directory) * directory_byte + piece.adaptive_bytes + len(piece.bulk)

    account = tuple(
        PackedTensor(
            constant.name,
            (constant.end - constant.start) // constant.element.size_bytes,
            "+".join(piece.coders),
            size(piece),
            copies,
        )
        for constant, piece, copies in tensors
    )
    return Packed(container, unpacking.HEADER_BYTES + len(sizes), size(rest), account)
