"""Says under what circumstances a device was measured, in a few words per variant."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence

from edgedeploy.records import Report, Snapshot
from edgedeploy.report.units import number, size
from edgedeploy.report.view import Row

UNTOLD = "not told"


def shared_facts(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Name and value of what a measuring session has in common; where rows differ, all values are listed."""
    reports = [row.report for row in rows if row.report is not None]
    if not reports:
        return []
    facts: tuple[tuple[str, Callable[[Report], str]], ...] = (
        ("Mode", lambda r: r.conditions.mode),
        ("Threads", lambda r: str(r.conditions.threads)),
        ("Accelerator", _accelerator),
        ("Emulated", lambda r: "yes" if r.conditions.emulated else "no"),
        ("Runtime", lambda r: f"{r.runtime} {r.runtime_version}".strip()),
        ("Instruction set", lambda r: " ".join(r.conditions.isa)),
        ("Machine", lambda r: f"{r.conditions.machine}, {r.conditions.cpus} CPUs"),
        ("Kernel", lambda r: r.conditions.kernel),
        ("Python on the board", lambda r: r.conditions.python),
        ("Agent (SHA-256)", lambda r: r.agent_sha256),
    )
    told = [(name, ", ".join(dict.fromkeys(filter(None, map(tell, reports)))) or UNTOLD) for name, tell in facts]
    moments = sorted(report.measured_at for report in reports)
    span = moments[0] if moments[0] == moments[-1] else f"{moments[0]} to {moments[-1]}"
    return [*told, ("Measured at", span)]


def circumstances(report: Report) -> dict[str, str]:
    """What the board said about itself over the repetitions, by what it is about; without what it did not tell."""
    repetitions = report.conditions.repetitions
    snapshots = [snapshot for repetition in repetitions for snapshot in (repetition.before, repetition.after)]
    if not snapshots:
        return {}
    told = {name: tell(snapshots) for name, tell in _STATE.items()}
    return {name: text for name, text in told.items() if text}


def told_columns(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """What a board told about its state for at least one row, and what it never told."""
    seen = {name for row in rows if row.report is not None for name in circumstances(row.report)}
    return [name for name in _STATE if name in seen], [name for name in _STATE if name not in seen]


def nodes(report: Report) -> str:
    """How many of the file's nodes ran on what, most first; empty where the runtime does not tell."""
    placement = sorted(report.conditions.placement.items(), key=lambda item: -item[1])
    return ", ".join(f"{count} on {name}" for name, count in placement)


def _accelerator(report: Report) -> str:
    asked, used = report.conditions.accelerator, report.conditions.accelerator_used
    return used if asked == used else f"{used or 'nothing'} (asked for {asked})"


def _governors(snapshots: Sequence[Snapshot]) -> str:
    return ", ".join(dict.fromkeys(governor for snapshot in snapshots for governor in snapshot.governors))


def _frequencies(snapshots: Sequence[Snapshot]) -> str:
    values = [mhz for snapshot in snapshots for mhz in snapshot.frequencies_mhz]
    if not values:
        return ""
    low, high = number(min(values)), number(max(values))
    return f"{low} MHz" if low == high else f"{low} to {high} MHz"


def _temperatures(snapshots: Sequence[Snapshot]) -> str:
    """The zone that ends hottest: the one that throttles."""
    first, last = snapshots[0].temperatures_c, snapshots[-1].temperatures_c
    zones = {**first, **last}
    if not zones:
        return ""
    zone = max(zones, key=lambda name: zones[name])
    return f"{_change(first.get(zone), last.get(zone))} °C ({zone})"


def _throttled(snapshots: Sequence[Snapshot]) -> str:
    flags = [snapshot.throttled for snapshot in snapshots if snapshot.throttled is not None]
    if not flags and not any(snapshot.cooling for snapshot in snapshots):
        return ""
    seen = functools.reduce(operator.or_, flags, 0)
    slowed = sorted({name for snapshot in snapshots for name in snapshot.slowed})
    return ", ".join([f"{seen:#x}"] * bool(seen) + slowed) or "no"


def _load(snapshots: Sequence[Snapshot]) -> str:
    return _change(snapshots[0].load_1m, snapshots[-1].load_1m)


def _free_memory(snapshots: Sequence[Snapshot]) -> str:
    free = [snapshot.free_memory_bytes for snapshot in snapshots if snapshot.free_memory_bytes is not None]
    return size(min(free)) if free else ""


def _battery(snapshots: Sequence[Snapshot]) -> str:
    level = _change(snapshots[0].battery_percent, snapshots[-1].battery_percent)
    charging = any(snapshot.charging for snapshot in snapshots)
    return ", ".join([f"{level} %"] * bool(level) + ["charging"] * charging)


def _change(before: float | None, after: float | None) -> str:
    return " → ".join(number(value) for value in (before, after) if value is not None)


_STATE: dict[str, Callable[[Sequence[Snapshot]], str]] = {
    "Temperature": _temperatures,
    "Governor": _governors,
    "Frequency": _frequencies,
    "Throttled": _throttled,
    "Load, 1 min": _load,
    "Least free memory": _free_memory,
    "Battery": _battery,
}
