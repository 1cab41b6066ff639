"""Decides from the conditions alone whether a measurement can be believed, and says why not."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from edgedeploy.on_device.accelerators import elsewhere
from edgedeploy.records import CPU, Conditions, DeviceProfile, Outcome, Repetition, Verdict

# Bits 0-3 of `vcgencmd get_throttled` speak of now (under-voltage, capped, throttled, soft limit), 16-19 of the
# time since boot.
_THROTTLED_NOW = 0xF

MAX_MEDIAN_SPREAD = 1.10
MIN_RUNS = 64


def void_reason(repetition: Repetition, profile: DeviceProfile) -> str | None:
    """Why a repetition must not count at all, or None."""
    for snapshot in (repetition.before, repetition.after):
        if snapshot.throttled is not None and snapshot.throttled & _THROTTLED_NOW:
            return f"the board throttled (get_throttled = {snapshot.throttled:#x})"
        if snapshot.slowed:
            by = ", ".join(f"{name} = {steps}" for name, steps in snapshot.slowed.items())
            return f"the kernel slowed the board down for its heat ({by})"
        hottest = max(snapshot.temperatures_c.values(), default=None)
        if hottest is not None and profile.max_temperature_c is not None and hottest >= profile.max_temperature_c:
            return f"{hottest:.0f} C is at the {profile.max_temperature_c:.0f} C where this kind of board throttles"
    if repetition.before.governors != repetition.after.governors:
        return "the frequency governor changed"
    return None


def judge(
    outcome: Outcome, conditions: Conditions, kept: Sequence[Repetition], profile: DeviceProfile
) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict on a measurement, with its reasons. `kept` are the repetitions that were not void."""
    invalid: list[str] = []
    if conditions.accelerator_used not in ("", conditions.accelerator):
        invalid.append(f"ran on {conditions.accelerator_used} where {conditions.accelerator} was asked for")
    if outcome is not Outcome.OK:
        return Verdict.INVALID, (f"the outcome is {outcome}", *invalid)
    voids = [reason for repetition in conditions.repetitions if (reason := void_reason(repetition, profile))]
    if len(kept) < 2:
        invalid.append(f"only {len(kept)} of {len(conditions.repetitions)} repetitions count")
    if invalid:
        return Verdict.INVALID, tuple(dict.fromkeys(invalid + voids))
    suspect = [*misfits(conditions, profile), *_doubts(conditions, kept)]
    if voids:
        suspect.insert(0, f"{len(voids)} of {len(conditions.repetitions)} repetitions void: {voids[0]}")
    return (Verdict.SUSPECT if suspect else Verdict.VALID), tuple(suspect)


def misfits(conditions: Conditions, profile: DeviceProfile) -> list[str]:
    """What ran otherwise than asked, and what the board is otherwise than its profile says."""
    doubts: list[str] = []
    asked, share = conditions.accelerator, conditions.accelerator_share
    if asked != CPU and share is None:
        doubts.append(f"the runtime does not tell whether {asked} took the net")
    elif asked != CPU and share is not None and share < 1:
        doubts.append(
            f"{100 * share:.0f} % of the net's nodes ran on {asked}: {elsewhere(asked, dict(conditions.placement))}"
        )
    # An emulated board shows the instruction set of the machine below it.
    lacking = [feature for feature in profile.isa if feature not in conditions.isa]
    if conditions.isa and lacking and not conditions.emulated:
        doubts.append(f"the board lacks {', '.join(lacking)}, which its profile {profile.name} names")
    return doubts


def few_runs(runs: int) -> list[str]:
    """That so many runs of the repetitions that count do not suffice, where they do not."""
    return [f"{runs} runs are too few, {MIN_RUNS} are needed"] if runs < MIN_RUNS else []


def unsteady(kept: Sequence[Repetition]) -> list[str]:
    """That the repetitions that count disagree, where they do."""
    medians = [median(repetition.samples_ns) for repetition in kept]
    if max(medians) <= MAX_MEDIAN_SPREAD * min(medians):
        return []
    # a native runner may tell of a median of no time at all
    return [f"medians of the repetitions differ by {100 * (max(medians) / max(1, min(medians)) - 1):.0f} %"]


def _doubts(conditions: Conditions, kept: Sequence[Repetition]) -> list[str]:
    doubts: list[str] = []
    if conditions.emulated:
        doubts.append("emulated")
    doubts += few_runs(sum(len(repetition.samples_ns) for repetition in kept))
    unsettled = sum(not repetition.warm_up_converged for repetition in kept)
    if unsettled:
        doubts.append(f"warm-up did not converge in {unsettled} of {len(kept)} repetitions")
    doubts += unsteady(kept)
    # The measurement itself keeps one core (or `threads`) busy; half a core more is somebody else's work.
    loads = [repetition.before.load_1m for repetition in kept if repetition.before.load_1m is not None]
    if loads and median(loads) > conditions.threads + 0.5 and median(loads) > 0.75 * conditions.cpus:
        doubts.append(f"the board was busy: load {median(loads):.1f} on {conditions.cpus} cores")
    return doubts
