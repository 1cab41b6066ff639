"""The warm-up and the timing loop: what is between two readings of the clock is the runtime's call alone."""

from __future__ import annotations

import gc
import time
from array import array
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_FAST = 0.1
_SLOW = 0.005
_AGREE = 0.04
_AGREE_RUNS = 40


class Agreement:
    """Two moving averages of the same times; they agree once the fast one has stopped leaving the slow one.

    The rule and its numbers are androidx.benchmark's: within 4 % of each other for 40 runs in a row.
    """

    def __init__(self) -> None:
        self._fast = self._slow = 0.0
        self._streak = 0
        self.runs = 0

    def add(self, elapsed_ns: int) -> bool:
        """Take in one run; return whether the averages have agreed for long enough."""
        if self.runs == 0:
            self._fast = self._slow = float(elapsed_ns)
        self.runs += 1
        self._fast += _FAST * (elapsed_ns - self._fast)
        self._slow += _SLOW * (elapsed_ns - self._slow)
        close = abs(self._fast - self._slow) <= _AGREE * self._slow
        self._streak = self._streak + 1 if close else 0
        return self._streak >= _AGREE_RUNS


def warm_up(
    invoke: Callable[[Any], Any], prepared: Any, min_runs: int, min_seconds: float, max_seconds: float
) -> tuple[int, bool]:
    """Run until the times settle, within the limits; return the number of runs and whether they settled.

    At least one run is made. `max_seconds` rules over the two minima.
    """
    clock = time.perf_counter_ns
    agreement = Agreement()
    start = clock()
    while True:
        before = clock()
        invoke(prepared)
        after = clock()
        settled = agreement.add(after - before)
        seconds = (after - start) / 1e9
        if settled and agreement.runs >= min_runs and seconds >= min_seconds:
            return agreement.runs, True
        if seconds >= max_seconds:
            return agreement.runs, False


def steady(invoke: Callable[[Any], Any], prepared: Any, min_runs: int, min_seconds: float, max_runs: int) -> array[int]:
    """Return the ns of every run: at least `min_runs` and `min_seconds`, but never more than `max_runs`."""
    clock = time.perf_counter_ns
    samples = array("q")
    record = samples.append
    runs = 0
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        earliest_end = clock() + int(min_seconds * 1e9)
        while True:
            before = clock()
            invoke(prepared)
            after = clock()
            record(after - before)
            runs += 1
            if (runs >= min_runs and after >= earliest_end) or runs >= max_runs:
                return samples
    finally:
        if collecting:
            gc.enable()
