"""Arranges records by device and rank, so that the templates only lay out and decide nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgedeploy.records import Choice, Device, Outcome, Report, Variant, Verdict
from edgedeploy.report.units import ms

NEAREST = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One variant on one device; `report` is None where the device was not asked, `variant` where its record is gone.

    `rank` counts from 1 and is None for what is not ranked; `why` says why it is not the winner.
    """

    name: str
    variant: Variant | None
    report: Report | None
    rank: int | None
    winner: bool
    why: str

    @property
    def believable(self) -> bool:
        """Whether the measurement may be ranked at all."""
        return self.report is not None and self.report.outcome is Outcome.OK and self.report.verdict != Verdict.INVALID

    @property
    def p50_ms(self) -> float | None:
        """The median latency in ms, or None where it was not measured."""
        latency = self.report.metrics.latency if self.report else None
        return latency.p50_ms if latency else None

    def absent(self, metric: str) -> str:
        """Why `metric` ("latency", "memory" or "energy") was not measured."""
        if self.report is None:
            return "this device has not run it"
        if why := self.report.metrics.absent.get(metric):
            return why
        if self.report.outcome is not Outcome.OK:
            return f"the run ended as {self.report.outcome.replace('_', ' ')}"
        return "no reason came back"

    def part(self, name: str, value_ms: float | None) -> str:
        """One time of a latency that was measured, or why just that one is not known: "p90", "first inference"."""
        if value_ms is not None:
            return ms(value_ms)
        assert self.report is not None
        assert self.report.metrics.latency is not None
        few = f"{self.report.metrics.latency.runs} runs are too few"
        return f"not known: {self.report.metrics.absent.get(name, few)}"


@dataclass(frozen=True, slots=True)
class DeviceView:
    """What the page says about one device: `rows` ranked ones first, then by latency, then what did not run.

    `nearest` is filled where nothing qualifies: the believable rows that do best on the goal, best first.
    `energy_absent` is the one reason that all rows share for having no energy, None where they differ.
    """

    anchor: str
    name: str
    profile: str
    device: Device | None
    choice: Choice | None
    rows: tuple[Row, ...]
    nearest: tuple[Row, ...]
    energy_absent: str | None

    @property
    def winner(self) -> Row | None:
        """The row of the variant that was chosen."""
        return next((row for row in self.rows if row.winner), None)

    @property
    def runner_up(self) -> Row | None:
        """The row that is ranked second."""
        return next((row for row in self.rows if row.rank == 2), None)

    @property
    def measured(self) -> tuple[Row, ...]:
        """The rows that the device has said something about."""
        return tuple(row for row in self.rows if row.report is not None)

    @property
    def emulated(self) -> bool:
        """Whether anything shown here comes from an emulator."""
        device = self.device is not None and self.device.emulated
        return device or any(row.report.conditions.emulated for row in self.rows if row.report)

    @property
    def metric(self) -> str:
        """The task's metric with the split that it is of."""
        quality = next((row.variant.quality for row in self.rows if row.variant), None)
        return f"{quality.metric} ({quality.split})" if quality else "quality"


def device_views(
    variants: Sequence[Variant], reports: Sequence[Report], choices: Sequence[Choice], devices: Sequence[Device]
) -> list[DeviceView]:
    """One view per device, in the order of `devices`; then those that only reports or choices name."""
    known = {device.name: device for device in devices}
    chosen = {choice.device: choice for choice in choices}
    names = dict.fromkeys([*known, *chosen, *(report.device for report in reports)])
    return [
        _device_view(
            f"device-{index}",
            name,
            known.get(name),
            chosen.get(name),
            variants,
            [report for report in reports if report.device == name],
        )
        for index, name in enumerate(names, start=1)
    ]


def _device_view(
    anchor: str,
    name: str,
    device: Device | None,
    choice: Choice | None,
    variants: Sequence[Variant],
    reports: Sequence[Report],
) -> DeviceView:
    latest = _latest(reports)
    rows = [_row(variant.name, variant, latest.pop(variant.id, None), choice) for variant in variants]
    rows += [_row(report.variant_name, None, report, None) for report in latest.values()]
    rows.sort(key=_order)
    profile = device.profile if device else choice.profile if choice else reports[0].profile
    nearest: list[Row] = []
    if choice is not None and choice.winner is None:
        measured = [(value, row) for row in rows if (value := _objective(row, choice.objective)) is not None]
        nearest = [row for _, row in sorted(measured, key=lambda pair: pair[0]) if row.believable]
    return DeviceView(
        anchor=anchor,
        name=name,
        profile=profile,
        device=device,
        choice=choice,
        rows=tuple(rows),
        nearest=tuple(nearest[:NEAREST]),
        energy_absent=_shared_reason(rows),
    )


def _latest(reports: Iterable[Report]) -> dict[str, Report]:
    """The newest report by variant id."""
    return {report.variant_id: report for report in sorted(reports, key=lambda report: report.measured_at)}


def _row(name: str, variant: Variant | None, report: Report | None, choice: Choice | None) -> Row:
    if choice is None:
        why = "it is not in the plan any more" if variant is None else ""
        return Row(name, variant, report, None, winner=False, why=why)
    rank = choice.ranking.index(name) + 1 if name in choice.ranking else None
    why = "; ".join(rejection.reason for rejection in choice.rejected if rejection.variant == name)
    return Row(name, variant, report, rank, winner=name == choice.winner, why=why)


def _order(row: Row) -> tuple[float, bool, float, str]:
    p50_ms = row.p50_ms
    rank = float("inf") if row.rank is None else row.rank
    return rank, not row.believable, float("inf") if p50_ms is None else p50_ms, row.name


def _objective(row: Row, objective: str) -> float | None:
    """What the goal minimises; smaller is better. None where it was not measured or is unknown here."""
    if row.report is None or row.variant is None:
        return None
    metrics = row.report.metrics
    if objective == "file":
        return row.variant.artifact.size_bytes
    if objective == "memory":
        return metrics.memory.peak_rss_bytes if metrics.memory else None
    if objective == "energy":
        return metrics.energy.total_mj if metrics.energy else None
    return row.p50_ms


def _shared_reason(rows: Sequence[Row]) -> str | None:
    measured = [row for row in rows if row.report is not None]
    if any(row.report and row.report.metrics.energy for row in measured):
        return None
    ran = [row for row in measured if row.report and row.report.outcome is Outcome.OK] or measured
    reasons = {row.absent("energy") for row in ran}
    return reasons.pop() if len(reasons) == 1 else None
