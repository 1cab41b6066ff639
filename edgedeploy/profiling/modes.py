"""How long a measurement runs for the trust that is asked of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mode:
    """Least runs and seconds of the steady phase of one variant, in total over its repetitions.

    A repetition is a process of its own; repetitions of all variants are interleaved in random order.
    """

    name: str
    min_runs: int
    min_seconds: float
    repetitions: int


# Runs and seconds as MLPerf Mobile's performance modes have them; repetitions after google/benchmark, which
# advises at least 9 for comparing two programs.
MODES = {
    mode.name: mode
    for mode in (
        Mode("smoke", min_runs=64, min_seconds=6.0, repetitions=3),
        Mode("quick", min_runs=128, min_seconds=10.0, repetitions=5),
        Mode("full", min_runs=1024, min_seconds=60.0, repetitions=9),
    )
}

# Every raw sample is kept; a net of a few microseconds would else fill the report of a long mode with millions.
MAX_RUNS = 200_000

# androidx.benchmark's WarmupManager: at least 30 runs and half a second, at most 30 s.
WARM_UP = {"min_runs": 30, "min_seconds": 0.5, "max_seconds": 30.0}
