"""Codes one tensor: as levels, groups of a palette's numbers, or planes of bytes, with or without a mask of zeros."""

from __future__ import annotations

import itertools
import math

import numpy as np

from edgedeploy.on_device import mixing, unpacking
from edgedeploy.packing.constants import Element
from edgedeploy.packing.pieces import Job, Piece, adaptive, signed, smallest, stream, varint

_MASK, _TURNED, _HALVES = 1 << 5, 1 << 6, 1 << 7
# From this share of zeros on, a mask may pay.
_SPARSE = 0.05
# With fewer values for each entry of a palette, the values alone may be smaller.
_FEW = 4
# Up to here a smaller table counts for more than fewer steps.
_SMALL, _SMALL_MASK = 1 << 18, 1 << 19
_CONTEXTS = "contexts"
_GRID_STEPS = 64


def tensor(content: bytes, element: Element, shape: tuple[int, ...], allowance: int) -> Piece:
    """The smallest piece for a tensor that takes at most `allowance` decisions of the adaptive coder."""
    item = element.size_bytes
    values = np.frombuffer(content, f"<u{item}")
    palette, numbers = _palette_of(values, element)
    found: list[Piece] = []
    if palette is not None:
        found += _by_palette(palette, numbers, element, _dims(shape, len(values)), allowance)
    if palette is None or _FEW * len(palette) > len(values):
        found.append(_planes(values, element, _head(unpacking.PLANES, element, len(values)), allowance))
    zeros = values == 0
    # By levels, zeros are told from their neighbours, which no mask can beat.
    if _SPARSE < zeros.mean() < 1 and not any(_CONTEXTS in piece.coders for piece in found):
        found += _masked(values, zeros, element, allowance)
    return smallest(found)


def _masked(values: np.ndarray, zeros: np.ndarray, element: Element, allowance: int) -> list[Piece]:
    marks = np.packbits(~zeros, bitorder="little")
    masks = {0: stream(marks, allowance)}
    if len(values) < _SMALL_MASK:
        halves = np.stack([marks & 15, marks >> 4], axis=1).reshape(-1)[: -(-len(values) // 4)]
        masks[_HALVES] = stream(halves, allowance)
    width, mask = min(masks.items(), key=lambda entry: entry[1].size_bytes)
    rest, left = values[~zeros], allowance - mask.decisions
    palette, numbers = _palette_of(rest, element)
    if palette is not None:
        piece, form = _groups(palette, numbers, element, b"", left), unpacking.GROUPS
    else:
        piece, form = _planes(rest, element, b"", left), unpacking.PLANES
    return [Piece(_head(form, element, len(values), _MASK | width)) + mask + piece]


def _head(form: int, element: Element, count: int, flags: int = 0) -> bytes:
    turned = _TURNED if element.floating and form == unpacking.PLANES else 0
    size = element.size_bytes.bit_length() - 1
    return varint(form | size << 3 | flags | turned) + varint(count)


def _palette_of(values: np.ndarray, element: Element) -> tuple[np.ndarray | None, np.ndarray]:
    """The different patterns in the order of the numbers they stand for, and each value's place; None if too many."""
    patterns, places = np.unique(values, return_inverse=True)
    if len(patterns) > unpacking.MAX_LEVELS:
        return None, places
    order = np.argsort(_sortable(patterns, element), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return patterns[order], rank[places]


def _sortable(patterns: np.ndarray, element: Element) -> np.ndarray:
    """Whole numbers in the order of the values, even of those that are not numbers."""
    if not element.floating:
        return patterns.view(element.value)
    top = patterns.dtype.type(1 << 8 * element.size_bytes - 1)
    return np.where(patterns & top, ~patterns, patterns | top)


def _by_palette(
    palette: np.ndarray, numbers: np.ndarray, element: Element, dims: tuple[int, ...], allowance: int
) -> list[Piece]:
    found = [_groups(palette, numbers, element, _head(unpacking.GROUPS, element, len(numbers)), allowance)]
    usual = int(np.bincount(numbers).argmax())
    most = max(usual, len(palette) - 1 - usual, 1)
    others = int((numbers != usual).sum())
    known = _palette(palette, element, allowance)
    decisions = len(numbers) + others * (1 + (most - 1).bit_length()) + known.decisions
    if decisions <= allowance:
        shape = varint(usual) + varint(len(dims)) + b"".join(map(varint, dims))
        job = _levels_job((numbers - usual).tolist(), dims, usual, len(palette) - 1 - usual)
        head = _head(unpacking.LEVELS, element, len(numbers))
        found.append(Piece(head) + known + adaptive(shape, job, _CONTEXTS))
    return found


def _levels_job(levels: list[int], dims: tuple[int, ...], below: int, above: int) -> Job:
    return lambda coder: mixing.code_levels(coder, levels, dims, below, above)


def _groups(palette: np.ndarray, numbers: np.ndarray, element: Element, head: bytes, allowance: int) -> Piece:
    most = 8 if len(palette) < 2 else min(int(math.log(256) / math.log(len(palette)) + 1e-9), 8)
    known = _palette(palette, element, allowance)
    left = allowance - known.decisions
    sizes = {1, most} if len(numbers) < _SMALL else {most}
    rests = [Piece(varint(size)) + stream(_grouped(numbers, len(palette), size), left) for size in sorted(sizes)]
    return Piece(head) + known + smallest(rests)


def _grouped(numbers: np.ndarray, levels: int, size: int) -> np.ndarray:
    padded = np.zeros(-(-len(numbers) // size) * size, np.int64)
    padded[: len(numbers)] = numbers
    return (padded.reshape(-1, size) @ (levels ** np.arange(size))).astype(np.uint8)


def _planes(values: np.ndarray, element: Element, head: bytes, allowance: int) -> Piece:
    item = element.size_bytes
    if element.floating:
        one = values.dtype.type(1)
        values = values << one | values >> values.dtype.type(8 * item - 1)
    planes = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), item)
    piece = Piece(head)
    for place in range(item - 1, -1, -1):
        piece += stream(np.ascontiguousarray(planes[:, place]), allowance - piece.decisions)
    return piece


def _palette(palette: np.ndarray, element: Element, allowance: int) -> Piece:
    count = varint(len(palette) - 1)
    found = []
    if element.floating:
        # Its planes are turned, as those of floats are.
        found.append(_planes(palette, element, varint(unpacking.PLANES) + count, allowance))
    else:
        found.append(Piece(varint(unpacking.STEPS) + count + _steps(palette.view(element.value))))
    grid = _grid(palette.view("<f4")) if element is Element.FLOAT32 else None
    if grid is not None:
        scale, numbers = grid
        found.append(Piece(varint(unpacking.GRID) + count + _steps(numbers), scale.tobytes()))
    return smallest(found)


def _steps(numbers: np.ndarray) -> bytes:
    whole = [int(number) for number in numbers]
    gaps = (after - before - 1 for before, after in itertools.pairwise(whole))
    return signed(whole[0]) + b"".join(map(varint, gaps))


def _grid(values: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The scale, one float32, and the whole numbers that give these very values; None where there are none."""
    if not np.isfinite(values).all() or not values.any():
        return None
    least = np.abs(values[values != 0]).min().astype(np.float64)
    for steps in range(1, _GRID_STEPS + 1):
        for scale in _neighbours(np.float32(least / steps)):
            if not scale > 0:
                continue
            ratios = np.rint(values.astype(np.float64) / scale)
            if np.abs(ratios).max() > unpacking.MAX_STEPS:
                continue
            numbers = ratios.astype(np.int64)  # which knows no negative zero
            if _same(numbers.astype(np.float32) * scale, values):
                return np.array([scale], "<f4"), numbers
    return None


def _neighbours(scale: np.float32) -> list[np.float32]:
    up, down = np.float32(np.inf), np.float32(0)
    return [scale, np.nextafter(scale, up), np.nextafter(scale, down)]


def _same(found: np.ndarray, wanted: np.ndarray) -> bool:
    return found.astype("<f4").tobytes() == wanted.tobytes()


def _dims(shape: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The shape, its last axes made one where there are too many; a row where it does not go with the data."""
    sizes = [size for size in shape if size != 1]
    if any(size < 1 for size in sizes) or math.prod(sizes) != count or not sizes:
        return (count,)
    most = unpacking.MAX_AXES
    return tuple(sizes[:most]) if len(sizes) <= most else (*sizes[: most - 1], math.prod(sizes[most - 1 :]))
