"""What an activation's range is said to be decides what eight bits make of it; both formats take their ranges here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from edgedeploy.errors import ExportError
from edgedeploy.records import Calibration

Range = tuple[float, float]

# On each side of zero. The range doubles as values grow, so that the larger side fills at least half of its bins:
# eight for each of 256 levels.
_BINS = 4096
# Below it there is nothing to tell apart.
_TINY = 2.0**-100
# As far in as a range is tried: a sixtieth of what was seen, in steps of a twelfth of an octave.
_SHRINKS = 2.0 ** -(np.arange(72) / 12)


class Observed:
    """The values that one tensor took: the extremes, and a histogram where the method asks for one.

    The histogram is the same in whatever batches and order the values come: its bins are powers of two wide.
    """

    def __init__(self, name: str, calibration: Calibration) -> None:
        self.low, self.high = 0.0, 0.0  # zero is always in, as padding and the end of a Relu need it exactly
        self._name = name
        self._counts = np.zeros(0 if calibration.method == "minmax" else 2 * _BINS, np.int64)
        self._zeros = 0
        self._reach = 0.0

    def see(self, values: np.ndarray) -> None:
        """Take in values of any shape. Raises ExportError where one is not finite."""
        if values.size == 0:
            return
        low, high = float(values.min()), float(values.max())
        if not np.isfinite((low, high)).all():
            raise ExportError(
                f"`{self._name}` takes NaN or infinity on the calibration split, so it has no range; "
                "look for examples that the net cannot bear"
            )
        self.low, self.high = min(self.low, low), max(self.high, high)
        if self._counts.size:
            self._count(values, max(-low, high))

    def range(self, calibration: Calibration, levels: int = 256) -> Range:
        """The lowest and highest value to encode in `levels` steps, zero between them or at an end."""
        if self._reach > 0.0 and calibration.method != "minmax":
            low, high = {"percentile": self._percentile, "mse": self._mse, "entropy": self._entropy}[
                calibration.method
            ](calibration, levels)
            return max(low, self.low), min(high, self.high)
        return self.low, self.high

    def _count(self, values: np.ndarray, peak: float) -> None:
        flat = values.ravel()
        flat = flat[flat != 0]
        self._zeros += values.size - flat.size
        if flat.size == 0 or peak < _TINY:
            return
        reach = 2.0 ** math.ceil(math.log2(peak))
        if self._reach == 0.0:
            self._reach = reach
        while self._reach < reach:
            pairs = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts[:] = 0
            self._counts[_BINS // 2 : _BINS + _BINS // 2] = pairs
            self._reach *= 2
        bins = np.floor(flat * (_BINS / self._reach)).astype(np.int64) + _BINS
        self._counts += np.bincount(bins.clip(0, 2 * _BINS - 1), minlength=2 * _BINS)

    def _edges(self) -> np.ndarray:
        edges: np.ndarray = np.arange(-_BINS, _BINS + 1) * (self._reach / _BINS)
        return edges

    def _percentile(self, calibration: Calibration, _levels: int) -> Range:
        """Half of what is to be cut off goes at each end."""
        counts = self._counts.copy()
        counts[_BINS] += self._zeros
        seen = np.cumsum(counts)
        cut = seen[-1] * (1 - calibration.percentile / 100) / 2
        edges = self._edges()
        first, last = np.searchsorted(seen, cut, side="right"), np.searchsorted(seen, seen[-1] - cut, side="left")
        return min(float(edges[first]), 0.0), max(float(edges[last + 1]), 0.0)

    def _mse(self, _calibration: Calibration, levels: int) -> Range:
        """The range of least squared error, one end after the other (Nagel et al. 2021, arXiv 2106.08295, 3.1)."""
        held = np.flatnonzero(self._counts)
        edges = self._edges()
        middles, counts = (edges[held] + edges[held + 1]) / 2, self._counts[held]
        width = self._reach / _BINS

        def error(low: float, high: float) -> float:
            step = (high - low) / (levels - 1)
            zero = np.rint(-low / step)
            encoded = (np.rint(middles / step) + zero).clip(0, levels - 1)
            apart = ((encoded - zero) * step - middles) ** 2
            # A bin's middle may lie on the grid by chance, the values around it do not.
            return float(counts @ np.maximum(apart, min(step, width) ** 2 / 12))

        low, high = self.low, self.high
        for _ in range(2):
            if high > 0.0:
                high = min((self.high * shrink for shrink in _SHRINKS), key=lambda end: error(low, end))
            if low < 0.0:
                low = min((self.low * shrink for shrink in _SHRINKS), key=lambda end: error(end, high))
        return low, high

    def _entropy(self, _calibration: Calibration, levels: int) -> Range:
        """The cut of least divergence of the encoded values from the seen ones.

        Migacz, "8-bit inference with TensorRT" (GTC 2017), on magnitudes. Zeros are left out: every cut has them.
        """
        folded = self._counts[_BINS:] + self._counts[:_BINS][::-1]
        used = int(np.flatnonzero(folded)[-1]) + 1
        levels = levels // 2 if self.low < 0.0 < self.high else levels
        if used <= levels:
            return self.low, self.high
        cuts = np.unique(np.linspace(levels, used, 128).astype(int))
        best = min(cuts[::-1], key=lambda cut: _divergence(folded, int(cut), levels))
        limit = float(best) * self._reach / _BINS
        return -limit, limit


def _divergence(counts: np.ndarray, cut: int, levels: int) -> float:
    """Kullback-Leibler divergence of the first `cut` bins in `levels` steps from all bins clipped to them."""
    seen = counts[:cut].astype(np.float64)
    starts = np.arange(levels) * cut // levels
    nonzero = seen > 0
    sums, shares = np.add.reduceat(seen, starts), np.add.reduceat(nonzero.astype(np.float64), starts)
    step = np.repeat(np.arange(levels), np.diff([*starts, cut]))
    encoded = np.where(nonzero, (sums / np.maximum(shares, 1))[step], 0.0)
    seen[-1] += counts[cut:].sum()
    if encoded.sum() == 0.0:
        return float("inf")
    p, q = seen / seen.sum(), encoded / encoded.sum()
    # Clipped values may end in a bin that was empty: a small probability stands for none at all.
    held = p > 0
    return float(np.sum(p[held] * np.log(p[held] / np.maximum(q[held], 1e-4))))


def ranges_of(
    source: Path, calibration: Calibration, levels: int, observe: Callable[[], Iterator[tuple[str, Observed]]]
) -> Mapping[str, Range]:
    """Ranges by tensor of a float file, observed once and then read from a file beside it."""
    key = f"{calibration.method}-{calibration.percentile:g}-{calibration.examples}-{levels}"
    cache = source.with_name(f"{source.name}.{key}.json")
    if not cache.exists():
        ranges = {name: observed.range(calibration, levels) for name, observed in observe()}
        cache.write_text(json.dumps(ranges), "utf-8")
    return {name: (low, high) for name, (low, high) in json.loads(cache.read_text("utf-8")).items()}
