"""What was chosen for a device, and why each other variant lost."""

from __future__ import annotations

from dataclasses import dataclass

from edgedeploy.records.boards import CPU
from edgedeploy.records.measured import Verdict


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
    `verdict` is the worst in the ranking, and `reasons` are those of its doubts, each after its variant's name.
    `confidence` is the probability that the winner is really ahead of the runner-up on the objective, None
    where there is no runner-up. `accelerator` is what the measurements were asked to run on.
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
    accelerator: str = CPU
