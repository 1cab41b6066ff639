"""From power readings to the energy of one inference, or to the reason why there is none."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from .power import SensorError, Source

if TYPE_CHECKING:
    from collections.abc import Iterator

    Reading = tuple[int, float]  # monotonic time in ns, watts
    Window = tuple[int, int]  # monotonic ns

_LEAST_COVERAGE = 0.95
_LEAST_READINGS = 5
_LEAST_IDLE_READINGS = 3


class Sampler:
    """Reads a source at its own rate on a thread; knows the windows in which nothing of ours ran."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.readings: list[Reading] = []
        self.last_error = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="power", daemon=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Sample for the block."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()

    def idle(self) -> Window:
        """Wait until the source has seen an idle board for long enough, and return that window."""
        start_ns = time.monotonic_ns()
        # Nothing is waited for but readings of a board that does nothing.
        time.sleep(max(1.0, _LEAST_READINGS / self.source.rate_hz))
        return start_ns, time.monotonic_ns()

    def _sample(self) -> None:
        period_s = 1 / self.source.rate_hz
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            try:
                reading = self.source.read()
            except SensorError as error:
                self.last_error = str(error)
            else:
                if reading is not None:
                    self.readings.append(reading)
            due = max(due + period_s, time.monotonic())


class Steady:
    """One steady phase: its window, its number of inferences, the idle windows around it."""

    def __init__(self, window: Window, runs: int, idle: tuple[Window, Window]) -> None:
        self.window = window
        self.runs = runs
        self.idle = idle


def integrate_j(readings: list[Reading], window: Window) -> float:
    """Return the energy inside the window: trapezoid over the readings' own times, cut at the window's ends.

    Power between two readings is taken as linear, before the first and after the last as constant.
    """
    start, end = window
    inside = [reading for reading in readings if start < reading[0] < end]
    points = [(start, _power_at(readings, start)), *inside, (end, _power_at(readings, end))]
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in zip(points, points[1:])) / 1e9


def energy_per_inference(
    source: Source, readings: list[Reading], phases: list[Steady], last_error: str = ""
) -> tuple[dict[str, Any] | None, str]:
    """Return the fields of records.Energy over all steady phases of a variant, or None and the reason."""
    seconds = sum(_seconds(phase.window) for phase in phases)
    runs = sum(phase.runs for phase in phases)
    present = sum(len(_within(readings, phase.window)) for phase in phases)
    coverage = min(1.0, present / max(1, int(seconds * source.rate_hz)))
    trouble = f" ({last_error})" if last_error else ""
    if seconds * source.rate_hz < _LEAST_READINGS:
        return (
            None,
            f"{seconds:.2g} s of steady phase are too short for {source.name}, read {source.rate_hz:g} times a second",
        )
    if coverage < _LEAST_COVERAGE:
        return None, f"{source.name} gave only {coverage:.0%} of the expected readings{trouble}"
    total_j = idle_j = 0.0
    for phase in phases:
        idle = [[watts for _, watts in _within(readings, window)] for window in phase.idle]
        if min(map(len, idle)) < _LEAST_IDLE_READINGS:
            return None, f"{source.name} gave too few readings of the idle board{trouble}"
        total_j += integrate_j(readings, phase.window)
        idle_j += sum(sum(watts) / len(watts) for watts in idle) / len(idle) * _seconds(phase.window)
    return {
        "total_mj": total_j * 1e3 / runs,
        "above_idle_mj": (total_j - idle_j) * 1e3 / runs,
        "mean_w": total_j / seconds,
        "idle_w": idle_j / seconds,
        "source": source.name,
        "scope": source.scope,
        "rate_hz": present / seconds,
        "coverage": coverage,
    }, ""


def _power_at(readings: list[Reading], moment: int) -> float:
    before = [reading for reading in readings if reading[0] <= moment]
    after = [reading for reading in readings if reading[0] >= moment]
    if not before or not after:
        return (before[-1] if before else after[0])[1]
    (t0, w0), (t1, w1) = before[-1], after[0]
    return w0 if t0 == t1 else w0 + (w1 - w0) * (moment - t0) / (t1 - t0)


def _within(readings: list[Reading], window: Window) -> list[Reading]:
    return [reading for reading in readings if window[0] <= reading[0] <= window[1]]


def _seconds(window: Window) -> float:
    return (window[1] - window[0]) / 1e9
