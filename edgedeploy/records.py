"""The nouns of edgedeploy: what is asked for, what came out, what was measured and what was chosen.

Standard library only, so that whoever merely reads records needs nothing else installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from torch import nn

    from edgedeploy.task import Task


class Format(StrEnum):
    """What kind of file a variant is."""

    ONNX = "onnx"
    TFLITE = "tflite"


class Precision(StrEnum):
    """The arithmetic a variant was exported for."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


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


# -- what is asked for ---------------------------------------------------------------------------------------


class Pass(Protocol):
    """One step from a torch net to a smaller or better torch net.

    An implementation is a frozen dataclass: its fields are its identity, together with `kind` and `version`.
    Raise `version` whenever the same fields would give another net. `tools` names the distributions whose
    version can change the result.
    """

    kind: ClassVar[str]
    version: ClassVar[int]
    tools: ClassVar[tuple[str, ...]]

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Return the compressed net; may change `model` in place. Raises CompressionError."""


@dataclass(frozen=True, slots=True)
class Target:
    """One file to export: its format and its precision."""

    format: Format
    precision: Precision

    def __str__(self) -> str:
        return f"{self.format}-{self.precision}"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Ordered passes and the targets to export afterwards."""

    name: str
    passes: tuple[Pass, ...]
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class PassSettings:
    """What is kept of a pass in a variant's record: enough to say what was done, not to do it again."""

    kind: str
    version: int
    settings: Mapping[str, Any]


# -- what came out -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Artifact:
    """Bytes in the object store, known by their digest. `format` is a file name's ending without the dot."""

    sha256: str
    format: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Parity:
    """How far an exported file strays from the source net on the same inputs.

    `relative_rms_error` is rms(exported - source) / rms(source) over all outputs, the largest over the output
    tensors; `tolerance` is the limit it was held to; `max_abs_error` is in the unit of the outputs.
    """

    max_abs_error: float
    relative_rms_error: float
    tolerance: float
    examples: int


@dataclass(frozen=True, slots=True)
class Quality:
    """The task's metric on one split, with the bounds of its 95 % confidence interval."""

    metric: str
    split: str
    value: float
    low: float
    high: float
    examples: int


@dataclass(frozen=True, slots=True)
class Drop:
    """How much of the metric was lost against the source net on the selection split (paired, 95 % interval).

    Positive is worse. The selection split decides; the test split only reports.
    """

    value: float
    low: float
    high: float
    examples: int


@dataclass(frozen=True, slots=True)
class Variant:
    """One exported file and what is known about it before any board has seen it.

    `id` hashes the question (task digest, passes with versions, target, tool versions); `artifact` is the
    answer. `name` is a label, unique within a plan; no fact is parsed out of it.
    """

    id: str
    name: str
    recipe: str
    passes: tuple[PassSettings, ...]
    target: Target
    task_digest: str
    tools: Mapping[str, str]
    artifact: Artifact
    contract: Artifact
    probe: Artifact
    parity: Parity
    quality: Quality
    drop: Drop
    parameters: int
    zipped_bytes: int
    notes: tuple[str, ...] = ()


# -- boards --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CpuCluster:
    """Identical cores of a board."""

    core: str
    count: int
    max_mhz: int | None = None


@dataclass(frozen=True, slots=True)
class RuntimeSupport:
    """An inference runtime that a kind of board can run, and the formats and precisions it takes there."""

    name: str
    format: Format
    precisions: tuple[Precision, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """Constraints; None where there is none. Used both for what a board bears and for what a user wants."""

    max_file_bytes: int | None = None
    max_peak_rss_bytes: int | None = None
    max_p50_ms: float | None = None
    max_p90_ms: float | None = None
    max_energy_mj: float | None = None
    min_quality: float | None = None
    max_drop: float | None = None


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """A kind of board.

    `power_source` is what its agent can read on the board itself ("rapl", "ina3221", "pi5-pmic", "battery") or
    None where the board has no sensor.
    """

    name: str
    title: str
    arch: str
    clusters: tuple[CpuCluster, ...]
    isa: tuple[str, ...]
    memory_bytes: int
    runtimes: tuple[RuntimeSupport, ...]
    transports: tuple[str, ...]
    accelerators: tuple[str, ...] = ()
    power_source: str | None = None
    power_note: str | None = None
    max_temperature_c: float | None = None
    limits: Limits = field(default_factory=Limits)

    def can_run(self, target: Target) -> bool:
        """Whether some runtime of this kind of board takes the target's format and precision."""
        return any(r.format == target.format and target.precision in r.precisions for r in self.runtimes)


@dataclass(frozen=True, slots=True)
class Device:
    """One board. `address` is `local:` or `ssh://[user@]host[:port]`.

    `root` is the folder on the board that edgedeploy owns; `~` is the home of the user who logs in. `shares`
    names a resource that boards on one host share, so that they are never measured at once.
    """

    name: str
    profile: str
    address: str
    root: str = "~/.edgedeploy"
    python: str | None = None
    ssh_config: str | None = None
    shares: str | None = None
    emulated: bool = False
    tags: tuple[str, ...] = ()


# -- what was measured ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Latency:
    """Times of one inference, in the four phases that must not be mixed.

    Percentiles are of the steady phase, over all repetitions: `sorted[int(n p)]`. One is None where there are
    too few runs for it (p90 needs 64, p95 130, p99 662). `p50_low_ms` and `p50_high_ms` bound the median at 95 %
    over repetitions.
    """

    init_ms: float
    first_inference_ms: float
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

    `*_over_runtime_bytes` is what remains after the same process with the runtime loaded and no model.
    """

    peak_rss_bytes: int
    peak_rss_over_runtime_bytes: int
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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a board at one moment; a field is None or empty where the board does not tell."""

    governors: tuple[str, ...] = ()
    frequencies_mhz: tuple[float, ...] = ()
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    throttled: int | None = None
    load_1m: float | None = None
    free_memory_bytes: int | None = None
    battery_percent: float | None = None
    charging: bool | None = None


@dataclass(frozen=True, slots=True)
class Repetition:
    """One process that loaded the variant and ran it: raw steady samples and the board's state around them."""

    init_ns: int
    first_inference_ns: int
    warm_up_runs: int
    warm_up_converged: bool
    samples_ns: tuple[int, ...]
    before: Snapshot
    after: Snapshot


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under what circumstances a report was made."""

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


# -- what was chosen -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a variant is not the one."""

    variant: str
    reason: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The decision for one device.

    `ranking` holds the names of the variants that meet every constraint and are on the Pareto front, best
    first; `winner` is its head, or None. `rejected` gives every other variant its reason, ranked ones too.
    `confidence` is the probability that the winner is really ahead of the runner-up on the objective, None
    where there is no runner-up.
    """

    device: str
    profile: str
    objective: str
    winner: str | None
    winner_id: str | None
    ranking: tuple[str, ...]
    rejected: tuple[Rejection, ...]
    verdict: Verdict | None
    reasons: tuple[str, ...] = ()
    confidence: float | None = None
    rehearsal: bool = False
