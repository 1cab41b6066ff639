"""What came out of a recipe, before any board has seen it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgedeploy.records.asked import PassSettings, Target


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
class OperatorUse:
    """What the operators of one type really compute in, read back from the exported file.

    `arithmetic` is "fp32", "fp16", "int8", ...; `weights` is what their weights are stored in, None where they have
    none; `why` says what kept them from integers where those were asked for, and is empty elsewhere.
    """

    operator: str
    count: int
    arithmetic: str
    weights: str | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """What one layer alone gives back when it stays in float, against the file with all layers quantised.

    `drop_recovered` is in the metric, `error_recovered` in relative RMS error of the outputs; `latency_cost_us` is
    what it costs an inference on the host, which only sets the order in which layers are tried.
    """

    layer: str
    drop_recovered: float
    error_recovered: float
    latency_cost_us: float


@dataclass(frozen=True, slots=True)
class StepAccount:
    """What one step of a recipe left of the net: the source, each pass in turn by its kind, and the exported file.

    `quality` and `drop` are on the selection split, the drop against the source, which has none itself. `macs` are
    for one example. `parameter_bytes` is what the parameters take in memory, for the exported file what its constants
    take. `file_bytes` and `packed_bytes` are of the float32 file that the net makes in the variant's format after
    this step, for the last step of the file itself. None is what cannot be had or was not counted: a net in between
    may make no file, and in an exported file nobody counts zeros.
    """

    step: str
    parameters: int
    nonzero_parameters: int | None
    macs: int | None
    parameter_bytes: int
    file_bytes: int | None = None
    packed_bytes: int | None = None
    quality: Quality | None = None
    drop: Drop | None = None

    @property
    def sparsity(self) -> float | None:
        """The share of parameters that are zero, None where nobody counted."""
        if self.nonzero_parameters is None or not self.parameters:
            return None
        return 1 - self.nonzero_parameters / self.parameters


SOURCE, EXPORT = "source", "export"
"""What the first and the last step are called; those in between have the kind of their pass."""


@dataclass(frozen=True, slots=True)
class LayerAccount:
    """What the passes left of one weight of the net, a tensor of two axes or more, named as in the net.

    `sparsity` is the share of zeros, `distinct` the number of different values, zero among them. `bits` are those of
    a value as an integer times a step of its output channel, or as an index into a table of values, that of its
    channel or of the whole tensor, whichever is the smallest; None where none is smaller than the floats themselves.
    `sensitivity` is what the metric loses by this layer alone: by zeros, at the rate nearest to its own, where a pass
    tried rates layer by layer, else by its integers, where the accuracy guard did; None where neither asked.
    """

    layer: str
    shape: tuple[int, ...]
    sparsity: float
    distinct: int
    bits: int | None
    sensitivity: float | None = None


@dataclass(frozen=True, slots=True)
class Variant:
    """One exported file and what is known about it before any board has seen it.

    `id` hashes the question (task digest, passes with versions, target, tool versions); `artifact` is the
    answer, and `packed` the container that rebuilds it on a board. `name` is a label, unique within a plan; no fact is
    parsed out of it. `kept_float` names the layers that the accuracy guard gave back, `sensitivity` what it went by,
    both empty where all layers passed at once. `steps` and `layers` say what each step of the recipe did, both empty
    where that was not kept.
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
    packed: Artifact
    notes: tuple[str, ...] = ()
    operators: tuple[OperatorUse, ...] = ()
    kept_float: tuple[str, ...] = ()
    sensitivity: tuple[LayerSensitivity, ...] = ()
    steps: tuple[StepAccount, ...] = ()
    layers: tuple[LayerAccount, ...] = ()
