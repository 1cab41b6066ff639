"""Picks one winner for a device and tells every other variant why it lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgedeploy.plan import Goal
from edgedeploy.records import CPU, Choice, Device, DeviceProfile, Rejection, Report, Variant, Verdict
from edgedeploy.selection.constraints import broken_limits, unfit
from edgedeploy.selection.pareto import dominator
from edgedeploy.statistics import probability_lower

# A suspect measurement leads a valid one only when it is ahead with this probability.
SUSPECT_LEAD = 0.95

_UNITS = {"latency": "p50_ms", "file": "file_bytes", "memory": "peak_rss_bytes", "energy": "energy_mj"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A variant and the latest that the device said about it; `report` is None where it was not measured."""

    variant: Variant
    report: Report | None


@dataclass(frozen=True, slots=True)
class _Fit:
    """A candidate that meets every constraint, with what it is compared by (all smaller is better)."""

    variant: Variant
    report: Report
    axes: dict[str, float]
    objective: float

    @property
    def suspect(self) -> bool:
        return self.report.verdict is Verdict.SUSPECT


def choose(
    device: Device, profile: DeviceProfile, goal: Goal, candidates: Sequence[Candidate], accelerator: str = CPU
) -> Choice:
    """Constraints of the goal and the profile first, then the Pareto front, then the goal's objective.

    `accelerator` is what the reports of the candidates were asked of.
    The front is taken over p50 latency, drop of the metric, file size, peak RSS and energy, as far as measured.
    """
    reasons: dict[str, str] = {}
    fits: list[_Fit] = []
    for candidate in candidates:
        reason, fit = _weigh(candidate, device, profile, goal, accelerator)
        if fit is not None:
            fits.append(fit)
        else:
            reasons[candidate.variant.name] = reason
    front: list[_Fit] = []
    points = [fit.axes for fit in fits]
    for index, fit in enumerate(fits):
        better = dominator(index, points)
        if better is None:
            front.append(fit)
        else:
            reasons[fit.variant.name] = f"dominated by {fits[better].variant.name}: {_against(fit, fits[better])}"
    ranking = _rank(front, goal)
    for fit in ranking[1:]:
        reasons[fit.variant.name] = _behind(fit, ranking[0], goal)
    winner = ranking[0] if ranking else None
    return Choice(
        device=device.name,
        profile=profile.name,
        objective=goal.minimise,
        winner=winner.variant.name if winner else None,
        winner_id=winner.variant.id if winner else None,
        ranking=tuple(fit.variant.name for fit in ranking),
        rejected=tuple(Rejection(name, reasons[name]) for c in candidates if (name := c.variant.name) in reasons),
        verdict=max((fit.report.verdict for fit in ranking), key=list(Verdict).index, default=None),
        reasons=tuple(f"{fit.variant.name}: {reason}" for fit in ranking for reason in fit.report.reasons),
        confidence=_lead(ranking[0], ranking[1], goal) if len(ranking) > 1 else None,
        rehearsal=device.emulated or any(fit.report.conditions.emulated for fit in ranking),
        accelerator=accelerator,
    )


def _weigh(
    candidate: Candidate, device: Device, profile: DeviceProfile, goal: Goal, accelerator: str
) -> tuple[str, _Fit | None]:
    """A candidate ready to be compared, or the reason why it cannot be."""
    variant, report = candidate.variant, candidate.report
    if (reason := unfit(variant, report, profile, device.name, accelerator)) is not None:
        return reason, None
    assert report is not None
    broken = [
        *broken_limits(variant, report.metrics, goal.limits, "goal"),
        *broken_limits(variant, report.metrics, profile.limits, f"profile {profile.name}"),
    ]
    if broken:
        return "; ".join(broken), None
    axes = _axes(variant, report)
    objective = axes.get(_UNITS[goal.minimise])
    if objective is None:
        why = report.metrics.absent.get(goal.minimise, "no figure came back")
        return f"the goal minimises {goal.minimise}, which was not measured ({why})", None
    return "", _Fit(variant, report, axes, objective)


def _axes(variant: Variant, report: Report) -> dict[str, float]:
    metrics = report.metrics
    axes: dict[str, float] = {"drop": variant.drop.value, "file_bytes": variant.artifact.size_bytes}
    if metrics.latency is not None:
        axes["p50_ms"] = metrics.latency.p50_ms
    if metrics.memory is not None:
        axes["peak_rss_bytes"] = metrics.memory.peak_rss_bytes
    if metrics.energy is not None:
        axes["energy_mj"] = metrics.energy.total_mj
    return axes


def _rank(front: Sequence[_Fit], goal: Goal) -> list[_Fit]:
    remaining = sorted(front, key=lambda fit: (fit.objective, fit.axes["drop"], fit.variant.name))
    ranking: list[_Fit] = []
    while remaining:
        head = remaining[0]
        if head.suspect:
            trusted = (fit for fit in remaining if not fit.suspect)
            head = next((fit for fit in trusted if (_lead(head, fit, goal) or 0.0) < SUSPECT_LEAD), head)
        remaining.remove(head)
        ranking.append(head)
    return ranking


def _lead(a: _Fit, b: _Fit, goal: Goal) -> float | None:
    """Probability that `a` is really below `b` on the objective; None where one measurement is all there is."""
    if goal.minimise == "file":
        return 1.0 if a.objective < b.objective else 0.0
    if goal.minimise == "latency":
        return probability_lower(_samples(a), _samples(b))
    return None


def _samples(fit: _Fit) -> list[tuple[int, ...]]:
    return [repetition.samples_ns for repetition in fit.report.conditions.repetitions]


def _against(loser: _Fit, winner: _Fit) -> str:
    shared = [axis for axis in loser.axes if axis in winner.axes and loser.axes[axis] != winner.axes[axis]]
    return ", ".join(f"{axis} {_figure(loser.axes[axis])} against {_figure(winner.axes[axis])}" for axis in shared)


def _behind(loser: _Fit, winner: _Fit, goal: Goal) -> str:
    unit = _UNITS[goal.minimise]
    text = f"{unit} {_figure(loser.objective)} against {_figure(winner.objective)} of {winner.variant.name}"
    if loser.objective < winner.objective:
        return f"{text}, but its measurement is suspect and the lead is inside the noise"
    return text


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 10_000 else f"{value:.4g}"
