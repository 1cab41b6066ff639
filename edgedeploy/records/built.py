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
