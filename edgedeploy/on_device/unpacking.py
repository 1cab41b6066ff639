"""Rebuilds a file from its packed container, bit by bit as it was, or refuses it.

    "EDPK"  version  CRC-32 of all that follows  SHA-256 of the file
    varints: size of the file, of the directory, of the adaptive part   |  adaptive part  |  bulk part

The directory says where the tensors lie, how each is coded and how the rest, the skeleton, is. It is itself the first
thing in the adaptive part. Whole numbers are little-endian; a varint has seven bits a byte, the lowest first.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING, Any

from .failures import Refused
from .lanes import MAX_LANES, decode, frequencies_of
from .mixing import Decoder, code_bytes, code_levels

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

__all__ = ["Refused", "unpack"]

MAGIC = b"EDPK\x01"
HEADER_BYTES = len(MAGIC) + 4 + 32
# Coders of a stream of bytes.
RAW, CONSTANT, ADAPTIVE, ZLIB, LZMA, LANES = range(6)
# Forms of a tensor's values.
PLANES, GROUPS, LEVELS, GRID, STEPS = range(5)
MAX_DIRECTORY_BYTES = 1 << 20
# What the adaptive coder may take on a slow board, whatever a container claims.
MAX_DECISIONS = 1 << 20
MAX_AXES = 4
MAX_LEVELS = 256
MAX_STEPS = 1 << 20  # whole in float32
LZMA_DICTIONARY_BYTES = 1 << 22


def unpack(container: bytes, max_size_bytes: int) -> bytes:
    """Return the file. Raises Refused where the container is corrupt, or the file would exceed `max_size_bytes`."""
    if len(container) < HEADER_BYTES or container[: len(MAGIC)] != MAGIC:
        raise Refused("it is no packed file of this version")
    checked = len(MAGIC) + 4
    if zlib.crc32(container[checked:]) != int.from_bytes(container[len(MAGIC) : checked], "little"):
        raise Refused("its checksum is wrong: it was damaged or cut short")
    try:
        content = _Container(container[HEADER_BYTES:], max_size_bytes).content()
    except (OverflowError, zlib.error) as error:
        raise Refused(f"it cannot be decoded: {error}") from error
    if hashlib.sha256(content).digest() != container[checked:HEADER_BYTES]:
        raise Refused("the file it holds has another SHA-256 than it says")
    return content


class _Reader:
    """Takes bytes from the front; none are ever missing unnoticed."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._place = 0

    def take(self, count: int) -> bytes:
        taken = self._content[self._place : self._place + count]
        if len(taken) != count:
            raise Refused("it ends too early")
        self._place += count
        return taken

    def varint(self, most: int) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
            if shift > 70:
                raise Refused("a number in it has no end")
        if value > most:
            raise Refused(f"a number in it is {value} where {most} is the most")
        return value

    def signed(self) -> int:
        value = self.varint((1 << 64) - 1)
        return -(value + 1 >> 1) if value & 1 else value >> 1

    def rest(self) -> bytes:
        return self.take(len(self._content) - self._place)


class _Container:
    """What follows the header. `size_bytes` bounds all that is ever allocated."""

    def __init__(self, content: bytes, max_size_bytes: int) -> None:
        reader = _Reader(content)
        self.size_bytes = reader.varint(1 << 62)
        if self.size_bytes > max_size_bytes:
            raise Refused(f"it says to hold {self.size_bytes} bytes, and {max_size_bytes} are the most here")
        directory = bytearray(reader.varint(MAX_DIRECTORY_BYTES))
        adaptive = reader.take(reader.varint(1 << 62))
        self._bulk = _Reader(reader.rest())
        self._coder = Decoder(adaptive)
        self._decisions = 0
        self._spend(8 * len(directory))
        code_bytes(self._coder, directory)
        self._directory = _Reader(bytes(directory))

    def content(self) -> bytes:
        tensors = []  # type: list[bytes]
        holes = []
        left = self.size_bytes
        for _ in range(self._directory.varint(MAX_DIRECTORY_BYTES)):
            gap = self._directory.varint(left)
            number = self._directory.varint(len(tensors))
            if number == len(tensors):
                tensors.append(self._tensor(left))
            left -= gap + len(tensors[number])
            if left < 0:
                raise Refused("its tensors are larger than the file")
            holes.append((gap, number))
        skeleton = self._stream(left + sum(gap for gap, _ in holes)).tobytes()
        if self._directory.rest() or self._bulk.rest():
            raise Refused("it holds more than the file needs")
        parts, place = [], 0
        for gap, number in holes:
            parts += [skeleton[place : place + gap], tensors[number]]
            place += gap
        return b"".join([*parts, skeleton[place:]])

    def _tensor(self, most_bytes: int) -> bytes:
        import numpy as np

        head = self._directory.varint(255)
        form, item, sparse, turned = head & 7, 1 << (head >> 3 & 3), head >> 5 & 1, head >> 6 & 1
        count = self._directory.varint(most_bytes // item)
        if not sparse:
            return self._values(form, item, count, turned).tobytes()
        width = 4 if head >> 7 & 1 else 8
        marks = self._stream(-(-count // width))
        mask = np.unpackbits(marks[:, None], axis=1, bitorder="little")
        if mask[:, width:].any():
            raise Refused("a mask in it has marks where there is nothing")
        mask = mask[:, :width].reshape(-1)
        if mask[count:].any():
            raise Refused("a mask in it is longer than its tensor")
        there = mask[:count].astype(bool)
        whole = np.zeros(count, np.dtype("<u%d" % item))
        whole[there] = self._values(form, item, int(there.sum()), turned)
        return whole.tobytes()

    def _values(self, form: int, item: int, count: int, turned: int) -> Array:
        """`count` whole numbers of `item` bytes that stand for the values, whatever their type."""
        if form == PLANES:
            return self._planes(item, count, turned)
        if form == GROUPS:
            return self._groups(item, count)
        if form == LEVELS:
            return self._levels(item, count)
        raise Refused(f"a tensor in it has the form {form}, which is not known here")

    def _planes(self, item: int, count: int, turned: int) -> Array:
        """One stream for each byte of the values; those of floats are turned, so that the exponent is one byte."""
        import numpy as np

        planes = np.empty((count, item), np.uint8)
        for place in range(item - 1, -1, -1):
            planes[:, place] = self._stream(count)
        values: Array = planes.reshape(-1).view("<u%d" % item)
        if not turned:
            return values
        one, most = values.dtype.type(1), values.dtype.type(8 * item - 1)
        back: Array = values >> one | values << most
        return back

    def _groups(self, item: int, count: int) -> Array:
        """Numbers of a palette's entries, as many to a byte as fit into it."""
        import numpy as np

        palette = self._palette(item)
        size = self._directory.varint(8)
        if not size or len(palette) ** size > 256:
            raise Refused("a palette in it is too large for its groups")
        groups = self._stream(-(-count // size))
        if groups.size and int(groups.max()) >= len(palette) ** size:
            raise Refused("it names an entry that a palette does not have")
        powers = len(palette) ** np.arange(size)
        table = palette[np.arange(len(palette) ** size)[:, None] // powers % len(palette)]
        values: Array = table.take(groups, axis=0).reshape(-1)[:count]
        return values

    def _levels(self, item: int, count: int) -> Array:
        """Numbers of a palette's entries, counted from the usual one, by their places and neighbours."""
        import numpy as np

        palette = self._palette(item)
        usual = self._directory.varint(len(palette) - 1)
        axes = self._directory.varint(MAX_AXES)
        dims = [self._directory.varint(max(count, 1)) for _ in range(axes)]
        product = 1
        for size in dims:
            product *= size
        if not axes or product != count or not count:
            raise Refused("the shape of a tensor in it does not go with its size")
        above = len(palette) - 1 - usual
        self._spend(count * (2 + (max(usual, above, 1) - 1).bit_length()))
        levels = [0] * count
        code_levels(self._coder, levels, dims, usual, above)
        numbers = np.array(levels) + usual
        if int(numbers.min()) < 0 or int(numbers.max()) >= len(palette):
            raise Refused("it names an entry that a palette does not have")
        values: Array = palette[numbers]
        return values

    def _palette(self, item: int) -> Array:
        """The different values of a tensor, in their order."""
        import numpy as np

        form = self._directory.varint(STEPS)
        count = self._directory.varint(MAX_LEVELS - 1) + 1
        if form == PLANES:
            return self._planes(item, count, 1)
        if form not in (GRID, STEPS) or (form == GRID and item != 4):
            raise Refused(f"a palette in it has the form {form}, which is not known here")
        numbers = [self._directory.signed()]
        for _ in range(count - 1):
            numbers.append(numbers[-1] + 1 + self._directory.varint(1 << 64))
        if form == STEPS:
            steps: Array = np.array([number & (1 << 8 * item) - 1 for number in numbers], np.dtype("<u%d" % item))
            return steps
        if max(abs(numbers[0]), abs(numbers[-1])) > MAX_STEPS:
            raise Refused("the grid of a palette in it is too wide")
        scale = np.frombuffer(self._bulk.take(4), "<f4")
        with np.errstate(all="ignore"):  # whatever a hostile scale makes of it, it is a pattern of bits
            values: Array = (np.array(numbers, np.float32) * scale).astype("<f4").view("<u4")
        return values

    def _stream(self, length: int, most: int = LANES) -> Array:
        """The next `length` bytes, by whichever coder up to `most` wrote them."""
        import numpy as np

        coder = self._directory.varint(most)
        if coder == RAW:
            content = self._bulk.take(length)
        elif coder == CONSTANT:
            return np.full(length, self._directory.varint(255), np.uint8)
        elif coder == ADAPTIVE:
            self._spend(8 * length)
            filled = bytearray(length)
            code_bytes(self._coder, filled)
            content = bytes(filled)
        elif coder == LANES:
            return self._lanes(length)
        else:
            content = self._inflated(coder, length)
        return np.frombuffer(content, np.uint8)

    def _lanes(self, length: int) -> Array:
        import numpy as np

        lanes = self._directory.varint(MAX_LANES)
        words = self._directory.varint(length)
        if not lanes:
            raise Refused("a part of it has no coder")
        table = self._stream(256, ADAPTIVE)
        frequencies = frequencies_of(table)
        states = np.frombuffer(self._bulk.take(4 * lanes), "<u4")
        return decode(np.frombuffer(self._bulk.take(2 * words), "<u2"), states, frequencies, length)

    def _inflated(self, coder: int, length: int) -> bytes:
        packed = self._bulk.take(self._directory.varint(1 << 62))
        if coder == ZLIB:
            inflater = zlib.decompressobj(-15)
            content, whole = inflater.decompress(packed, length + 1), inflater.eof and not inflater.unused_data
        else:
            try:
                import lzma
            except ImportError as error:
                raise Refused("it needs the module lzma, which this board's Python was built without") from error
            filters = [{"id": lzma.FILTER_LZMA1, "dict_size": LZMA_DICTIONARY_BYTES}]
            try:
                # No end is marked, as the length is known.
                content = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters).decompress(packed, length + 1)
            except lzma.LZMAError as error:
                raise Refused(f"it cannot be decoded: {error}") from error
            whole = True
        if len(content) != length or not whole:
            raise Refused("a part of it has another length than it says")
        return content

    def _spend(self, decisions: int) -> None:
        self._decisions += decisions
        if self._decisions > MAX_DECISIONS:
            raise Refused(f"to decode it takes more than {MAX_DECISIONS} steps of the adaptive coder")
