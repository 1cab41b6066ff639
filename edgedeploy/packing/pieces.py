"""Streams of bytes, each by the coder that makes it smallest, and pieces of a container that can be weighed alone."""

from __future__ import annotations

import lzma
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

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
    """Writes the bits that the board's decoder reads: the same interval, narrowed by what is known instead of read."""

    def __init__(self) -> None:
        super().__init__(b"")
        self._written = bytearray()
        self.decisions = 0

    def bit(self, probability: int, bit: int) -> int:
        """Write a bit that is 1 with this probability, in 1/65536."""
        self.decisions += 1
        low, high = self._low, self._high
        span = high - low
        middle = low + (span >> 16) * probability + ((span & 0xFFFF) * probability >> 16)
        if bit:
            high = middle
        else:
            low = middle + 1
        while not (low ^ high) & 0xFF000000:
            self._written.append(high >> 24)
            low = low << 8 & 0xFFFFFFFF
            high = high << 8 & 0xFFFFFFFF | 0xFF
        self._low, self._high = low, high
        return bit

    @property
    def size_bytes(self) -> float:
        """What has been written so far, to fractions of a byte."""
        return len(self._written) + (32 - math.log2(self._high - self._low + 1)) / 8

    def finish(self) -> bytes:
        """All that was written, in the fewest bytes: a decoder reads zeros beyond the end."""
        for count in range(5):
            kept = self._high >> 32 - 8 * count << 32 - 8 * count
            if kept >= self._low:
                break
        return (bytes(self._written) + kept.to_bytes(4, "big")[:count]).rstrip(b"\0")


Job = Callable[[mixing.Decoder], None]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a container: what it adds to the directory and to the bulk, and the adaptive coder's jobs in order."""

    directory: bytes
    bulk: bytes = b""
    jobs: tuple[Job, ...] = ()
    adaptive_bytes: float = 0.0
    decisions: int = 0
    coders: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> float:
        """About what it takes in the container."""
        return len(self.directory) * _DIRECTORY_BYTE + len(self.bulk) + self.adaptive_bytes

    def __add__(self, other: Piece) -> Piece:
        return Piece(
            self.directory + other.directory,
            self.bulk + other.bulk,
            self.jobs + other.jobs,
            self.adaptive_bytes + other.adaptive_bytes,
            self.decisions + other.decisions,
            self.coders + tuple(coder for coder in other.coders if coder not in self.coders),
        )


def smallest(pieces: list[Piece]) -> Piece:
    """The smallest, where a step of the adaptive coder costs as much as it should at least save."""
    return min(pieces, key=lambda piece: piece.size_bytes + piece.decisions / _DECISIONS_A_BYTE)


def adaptive(directory: bytes, job: Job, name: str) -> Piece:
    """A piece that consists of one job, which is done here once to weigh it."""
    trial = Encoder()
    job(trial)
    return Piece(directory, b"", (job,), trial.size_bytes, trial.decisions, (name,))


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
            found.append(adaptive(varint(unpacking.ADAPTIVE), _bytes_job(plain), "adaptive"))
        found += _interleaved(content, counts, allowance)
        found += _deflated(plain, entropy_bits, text)
    return smallest(found)


def _bytes_job(content: bytes) -> Job:
    return lambda coder: mixing.code_bytes(coder, bytearray(content))


def _entropy_bits(counts: np.ndarray) -> float:
    """Bits a symbol, with the correction of Miller and Madow for few samples."""
    total, there = int(counts.sum()), counts[counts > 0]
    shares = there / total
    return float(-(shares * np.log2(shares)).sum() + (len(there) - 1) / (2 * total * math.log(2)))


def _interleaved(content: np.ndarray, counts: np.ndarray, allowance: int) -> list[Piece]:
    table = lanes.table_of(counts)
    frequencies = frequencies_of(table)
    cost = lanes.cost_bytes(counts, frequencies)
    if cost >= content.size:
        return []
    width = lanes.lanes_for(cost)
    states, words = lanes.encode(content, frequencies, width)
    known = Piece(varint(unpacking.LANES) + varint(width) + varint(len(words)), coders=("rans",))
    bulk = Piece(b"", states.tobytes() + words.tobytes())
    return [replace(known + _table(table, allowance) + bulk, coders=("rans",))]


def _table(table: np.ndarray, allowance: int) -> Piece:
    plain = Piece(varint(unpacking.RAW), table.tobytes())
    job = _bytes_job(table.tobytes())
    coded = [adaptive(varint(unpacking.ADAPTIVE), job, "adaptive")] if 8 * table.size <= allowance else []
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
