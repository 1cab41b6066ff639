"""Streams of bytes, each by the coder that makes it smallest, and pieces of a container that can be weighed alone."""

from __future__ import annotations

import lzma
import math
import zlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from edgedeploy.on_device import mixing, unpacking
from edgedeploy.on_device.lanes import frequencies_of
from edgedeploy.packing import lanes

# The adaptive coder takes a directory's byte in about six bits.
_DIRECTORY_BYTE = 0.75
_SAMPLE_BYTES = 1 << 16
# What lzma must save over zlib, as not every board's Python has it.
_LZMA_WORTH = 0.95
# A small board's Python takes about 10,000 a second.
_DECISIONS_A_BYTE = 2000
_MOST_BYTES = 1 << 13  # that the adaptive coder is tried on, unless they are text
# Bytes that look random to order 0 are left alone, in bits a byte.
_RANDOM_BITS = 7.9


class Encoder(mixing.Decoder):
    """Writes the bits that the board's decoder reads: the same interval, narrowed by what is known instead of read.

    A probability depends on the bits of its own job alone. A job is therefore done once, to weigh it, and what it
    asked for is written as often as it is wanted.
    """

    def __init__(self) -> None:
        super().__init__(b"")
        self._steps = array("I")

    def bit(self, probability: int, bit: int) -> int:
        """Note a bit that is 1 with this probability, in 1/65536."""
        self._steps.append(probability << 1 | bit)
        return bit

    @property
    def decisions(self) -> int:
        """How many bits have been noted."""
        return len(self._steps)

    def take(self, other: Encoder) -> None:
        """Note what another has noted."""
        self._steps.extend(other._steps)

    def size_bytes(self) -> float:
        """What they take, to fractions of a byte."""
        low, high, written = self._narrowed()
        return len(written) + (32 - math.log2(high - low + 1)) / 8

    def finish(self) -> bytes:
        """All of them, in the fewest bytes: a decoder reads zeros beyond the end."""
        low, high, written = self._narrowed()
        for count in range(5):
            kept = high >> 32 - 8 * count << 32 - 8 * count
            if kept >= low:
                break
        return (bytes(written) + kept.to_bytes(4, "big")[:count]).rstrip(b"\0")

    def _narrowed(self) -> tuple[int, int, bytearray]:
        low, high, written = 0, 0xFFFFFFFF, bytearray()
        for step in self._steps:
            probability = step >> 1
            span = high - low
            middle = low + (span >> 16) * probability + ((span & 0xFFFF) * probability >> 16)
            if step & 1:
                high = middle
            else:
                low = middle + 1
            while not (low ^ high) & 0xFF000000:
                written.append(high >> 24)
                low = low << 8 & 0xFFFFFFFF
                high = high << 8 & 0xFFFFFFFF | 0xFF
        return low, high, written


Job = Callable[[mixing.Decoder], None]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a container: what it adds to the directory, to the bulk, and to what the adaptive coder has done."""

    directory: bytes
    bulk: bytes = b""
    done: tuple[Encoder, ...] = ()
    adaptive_bytes: float = 0.0
    decisions: int = 0
    coders: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> float:
        """About what it takes in the container."""
        return len(self.directory) * _DIRECTORY_BYTE + len(self.bulk) + self.adaptive_bytes

    @property
    def price(self) -> float:
        """Its bytes, and for each step of the adaptive coder as much as it should at least save."""
        return self.size_bytes + self.decisions / _DECISIONS_A_BYTE

    def __add__(self, other: Piece) -> Piece:
        return Piece(
            self.directory + other.directory,
            self.bulk + other.bulk,
            self.done + other.done,
            self.adaptive_bytes + other.adaptive_bytes,
            self.decisions + other.decisions,
            self.coders + tuple(coder for coder in other.coders if coder not in self.coders),
        )


def smallest(pieces: list[Piece]) -> Piece:
    """The smallest, with what the adaptive coder's steps cost."""
    return min(pieces, key=lambda piece: piece.price)


def adaptive(directory: bytes, job: Job, name: str) -> Piece:
    """A piece that consists of one job, which is done here."""
    done = Encoder()
    job(done)
    return Piece(directory, b"", (done,), done.size_bytes(), done.decisions, (name,))


@lru_cache(maxsize=256)  # palettes and tables of frequencies come again, in one tensor and from file to file
def adaptive_bytes(content: bytes) -> Piece:
    """A piece that codes bytes by those before them."""
    return adaptive(varint(unpacking.ADAPTIVE), lambda coder: mixing.code_bytes(coder, bytearray(content)), "adaptive")


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*written, value])


def signed(value: int) -> bytes:
    """A varint of a number that may be negative."""
    return varint(-2 * value - 1 if value < 0 else 2 * value)


def stream(content: np.ndarray, allowance: int, *, text: bool = False) -> Piece:
    """Code uint8 `content` in at most `allowance` decisions of the adaptive coder; `text` may repeat itself."""
    if not content.size or (content == content[0]).all():
        value = int(content[0]) if content.size else 0
        return Piece(varint(unpacking.CONSTANT) + varint(value), coders=("constant",))
    plain = content.tobytes()
    found = [Piece(varint(unpacking.RAW), plain, coders=("raw",))]
    counts = np.bincount(content, minlength=256)
    entropy_bits = _entropy_bits(counts)
    if entropy_bits < _RANDOM_BITS or text:
        if 8 * content.size <= allowance and (text or content.size <= _MOST_BYTES):
            found.append(adaptive_bytes(plain))
        found += _deflated(plain, entropy_bits, text)
        found += _interleaved(content, counts, allowance, smallest(found).price)
    return smallest(found)


def _entropy_bits(counts: np.ndarray) -> float:
    """Bits a symbol, with the correction of Miller and Madow for few samples."""
    total, there = int(counts.sum()), counts[counts > 0]
    shares = there / total
    return float(-(shares * np.log2(shares)).sum() + (len(there) - 1) / (2 * total * math.log(2)))


def _interleaved(content: np.ndarray, counts: np.ndarray, allowance: int, to_beat: float) -> list[Piece]:
    table = lanes.table_of(counts)
    frequencies = frequencies_of(table)
    cost = lanes.cost_bytes(counts, frequencies)
    if cost >= content.size:
        return []
    width = lanes.lanes_for(cost)
    states, words = lanes.encode(content, frequencies, width)
    known = Piece(varint(unpacking.LANES) + varint(width) + varint(len(words)), coders=("rans",))
    bulk = Piece(b"", states.tobytes() + words.tobytes())
    if (known + bulk).price >= to_beat:
        return []  # before its table, which takes longest
    return [replace(known + _table(table, allowance) + bulk, coders=("rans",))]


def _table(table: np.ndarray, allowance: int) -> Piece:
    plain = Piece(varint(unpacking.RAW), table.tobytes())
    coded = [adaptive_bytes(table.tobytes())] if 8 * table.size <= allowance else []
    return smallest([plain, *coded])


def _deflated(content: bytes, entropy_bits: float, text: bool) -> list[Piece]:
    sample = content[:_SAMPLE_BYTES]
    if not text and len(zlib.compress(sample, 6)) * 8 > 0.97 * entropy_bits * len(sample):
        return []  # nothing repeats itself, so that the entropy coder wins
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    found = [_inflatable(unpacking.ZLIB, deflater.compress(content) + deflater.flush(), "zlib")]
    if text and len(content) > _SAMPLE_BYTES // 16:
        filters = [{"id": lzma.FILTER_LZMA1, "dict_size": unpacking.LZMA_DICTIONARY_BYTES}]
        packed = lzma.compress(content, lzma.FORMAT_RAW, filters=filters)
        if len(packed) < _LZMA_WORTH * len(found[0].bulk):
            found.append(_inflatable(unpacking.LZMA, packed, "lzma"))
    return found


def _inflatable(coder: int, packed: bytes, name: str) -> Piece:
    return Piece(varint(coder) + varint(len(packed)), packed, coders=(name,))
