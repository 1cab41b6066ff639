"""Trained low-bit weights are floats that lie on a grid: whoever writes a file finds it here and stores integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_MOST = 127  # so that int8 holds all levels, zero in their midst: 255 of them
# Weight and peak are each rounded once when they are made, and once more when a batch norm is folded in: 2^-24 apiece.
_TOLERANCE = 2.0**-21
_SAMPLE = 256  # enough of a channel to throw out nearly every number of levels that does not fit


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Weights as integers: `levels[c] * step[c]` is channel c along the axis, exact to the rounding of a float.

    `levels` is int8 of the weights' shape, between -127 and 127; `step` is float32, above 0, of shape (channels,),
    or (1,) where there is one step for all.
    """

    step: np.ndarray
    levels: np.ndarray

    @property
    def bits(self) -> int:
        """The fewest bits of a signed symmetric integer that hold every level: 2 for -1, 0 and 1."""
        return int(np.abs(self.levels).max(initial=0)).bit_length() + 1


def grid_of(weights: np.ndarray, axis: int | None = 0) -> Grid | None:
    """The coarsest uniform grid that the weights lie on, zero in its midst, or None where they do not lie on one.

    In each channel along `axis`, or in all at once where it is None, it is the smallest n up to 127 for which
    w * n / max|w| is a whole number everywhere; the step is then max|w| / n. It does not matter which pass put the
    weights there. Zeros alone get a step of 1.
    """
    if weights.size == 0 or not np.isfinite(weights).all():
        return None
    channels = (
        weights.reshape(1, -1) if axis is None else np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)
    )
    steps, levels = np.ones(len(channels), np.float32), np.zeros(channels.shape, np.int8)
    for index, channel in enumerate(channels.astype(np.float64)):
        peak = np.abs(channel).max()
        if peak == 0.0:
            continue
        count = _coarsest(channel / peak)
        if count is None:
            return None
        steps[index] = peak / count
        levels[index] = np.rint(channel * (count / peak))
    if axis is None:
        return Grid(steps, levels.reshape(weights.shape))
    moved = np.moveaxis(weights, axis, 0).shape
    return Grid(steps, np.ascontiguousarray(np.moveaxis(levels.reshape(moved), 0, axis)))


def _coarsest(ratios: np.ndarray) -> int | None:
    """The smallest n for which n times each of these numbers, the largest of which is 1, is whole."""
    counts = np.arange(1, _MOST + 1)
    candidates = counts[_whole(ratios[:_SAMPLE] * counts[:, None], counts[:, None]).all(axis=1)]
    return next((int(count) for count in candidates if _whole(ratios * count, count).all()), None)


def _whole(products: np.ndarray, counts: np.ndarray) -> np.ndarray:
    close: np.ndarray = np.abs(products - np.rint(products)) <= counts * _TOLERANCE
    return close
