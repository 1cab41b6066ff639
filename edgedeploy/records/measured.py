"""What a board said about a variant, under which conditions, and whether it can be believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """What happened when a board tried a variant."""

    OK = "ok"
    UNSUPPORTED = "unsupported"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    MISMATCH = "mismatch"


class Verdict(StrEnum):
    """Whether a measurement can be believed."""

    VALID = "valid"
    SUSPECT = "suspect"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Latency:
    """Times of one inference, in the four phases that must not be mixed.

    Percentiles are of the steady phase, over all repetitions: `sorted[int(n p)]`. One is None where there are
    too few runs for it (p90 needs 64, p95 130, p99 662). `p50_low_ms` and `p50_high_ms` bound the median at 95 %
    over repetitions.
    """

    init_ms: float
    first_inference_ms: float | None
    warm_up_runs: int
    warm_up_converged: bool
    runs: int
    mean_ms: float
    min_ms: float
    max_ms: float
    p50_ms: float
    p50_low_ms: float
    p50_high_ms: float
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of the process that ran the variant, in a run apart from the latency runs.

    `*_over_runtime_bytes` is what remains after the same process with the runtime loaded and no model, None where that
    is not known.
    """

    peak_rss_bytes: int
    peak_rss_over_runtime_bytes: int | None
    pss_bytes: int | None
    pss_over_runtime_bytes: int | None


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy of one inference during the steady phase, trapezoid over the sensor's own timestamps.

    `scope` says what the sensor sees (soc, module, board); `coverage` is the share of expected samples present.
    """

    total_mj: float
    above_idle_mj: float
    mean_w: float
    idle_w: float
    source: str
    scope: str
    rate_hz: float
    coverage: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """What was measured; None where it was not, and then `absent` says why under the field's name."""

    latency: Latency | None = None
    memory: Memory | None = None
    energy: Energy | None = None
    absent: Mapping[str, str] = field(default_factory=dict)

    @property
    def rss_over_runtime_bytes(self) -> int | None:
        """The peak of the memory less the runtime's own; None also where a native runner tells the peak alone."""
        return self.memory.peak_rss_over_runtime_bytes if self.memory else None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a board at one moment; a field is None or empty where the board does not tell.

    `throttled` are the bits of a Raspberry Pi's firmware; `cooling` is how far a kernel slows the board down for its
    heat, in steps, by cooling device.
    """

    governors: tuple[str, ...] = ()
    frequencies_mhz: tuple[float, ...] = ()
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    throttled: int | None = None
    load_1m: float | None = None
    free_memory_bytes: int | None = None
    battery_percent: float | None = None
    charging: bool | None = None
    cooling: Mapping[str, int] = field(default_factory=dict)

    @property
    def slowed(self) -> Mapping[str, int]:
        """The cooling devices that slow the board down at this moment, by name."""
        return {name: steps for name, steps in sorted(self.cooling.items()) if steps > 0}


@dataclass(frozen=True, slots=True)
class Repetition:
    """One process that loaded the variant and ran it: raw steady samples and the board's state around them."""

    init_ns: int
    first_inference_ns: int | None
    warm_up_runs: int
    warm_up_converged: bool
    samples_ns: tuple[int, ...]
    before: Snapshot
    after: Snapshot


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under what circumstances a report was made.

    `accelerator_used` is what ran the file, empty where it did not run; `accelerator_share` the share of its nodes
    that ran on the accelerator asked for, None where the runtime does not tell; `placement` counts nodes by what took
    them. `build_ms` is the first load and inference where the board made then what it keeps for the accelerator, such
    as an engine, and None where nothing had to be made; no latency holds any of it. `isa` names the board's
    instruction-set features that matter here, empty where it does not tell.
    """

    mode: str
    threads: int
    accelerator: str
    accelerator_used: str
    emulated: bool
    python: str
    kernel: str
    machine: str
    cpus: int
    repetitions: tuple[Repetition, ...] = ()
    accelerator_share: float | None = None
    placement: Mapping[str, int] = field(default_factory=dict)
    build_ms: float | None = None
    isa: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What one board said about one variant. `max_output_error` is relative to the range of the host's outputs."""

    id: str
    variant_id: str
    variant_name: str
    device: str
    profile: str
    runtime: str
    runtime_version: str
    outcome: Outcome
    detail: str
    verdict: Verdict
    reasons: tuple[str, ...]
    metrics: Metrics
    conditions: Conditions
    max_output_error: float | None
    agent_sha256: str
    measured_at: str
