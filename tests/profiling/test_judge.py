from __future__ import annotations

import pytest

from edgedeploy.profiling.judge import judge, void_reason
from edgedeploy.records import Outcome, Repetition, Snapshot, Verdict
from tests.support.records import make_conditions, make_profile, make_repetition

PROFILE = make_profile(max_temperature_c=80.0)


def verdict_of(*repetitions: Repetition, **conditions: object) -> tuple[Verdict, tuple[str, ...]]:
    kept = [repetition for repetition in repetitions if void_reason(repetition, PROFILE) is None]
    return judge(Outcome.OK, make_conditions(*repetitions, **conditions), kept, PROFILE)


def test_a_quiet_settled_measurement_is_valid() -> None:
    assert verdict_of(*(make_repetition(1.0) for _ in range(3))) == (Verdict.VALID, ())


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (Snapshot(throttled=0x4), "throttled"),
        (Snapshot(temperatures_c={"cpu": 81.0}), "81 C"),
        (Snapshot(governors=("powersave",)), "governor changed"),
    ],
)
def test_a_contaminated_repetition_is_void(state: Snapshot, why: str) -> None:
    bad = make_repetition(1.0, after=state)
    assert why in (void_reason(bad, PROFILE) or "")
    verdict, reasons = verdict_of(make_repetition(1.0), make_repetition(1.0), bad)
    assert verdict is Verdict.SUSPECT
    assert reasons[0].startswith("1 of 3 repetitions void")
    verdict, reasons = verdict_of(make_repetition(1.0), bad, bad)
    assert verdict is Verdict.INVALID
    assert any(why in reason for reason in reasons)


def test_throttling_since_boot_is_history() -> None:
    assert void_reason(make_repetition(1.0, before=Snapshot(throttled=0x50000)), PROFILE) is None


def test_another_accelerator_than_asked_is_invalid() -> None:
    verdict, reasons = verdict_of(*(make_repetition(1.0) for _ in range(3)), accelerator="cuda")
    assert (verdict, reasons) == (Verdict.INVALID, ("ran on cpu where cuda was asked for",))


@pytest.mark.parametrize(
    ("repetitions", "conditions", "why"),
    [
        ([make_repetition(1.0)] * 3, {"emulated": True}, "emulated"),
        ([make_repetition(1.0, runs=20)] * 3, {}, "60 runs are too few"),
        ([make_repetition(1.0, warm_up_converged=False)] * 3, {}, "warm-up did not converge in 3 of 3"),
        ([make_repetition(1.0), make_repetition(1.0), make_repetition(1.3)], {}, "differ by 30 %"),
        ([make_repetition(1.0, before=Snapshot(load_1m=3.1))] * 3, {}, "load 3.1 on 2 cores"),
    ],
)
def test_each_doubt_makes_it_suspect(repetitions: list[Repetition], conditions: dict[str, object], why: str) -> None:
    verdict, reasons = verdict_of(*repetitions, **conditions)
    assert verdict is Verdict.SUSPECT
    assert any(why in reason for reason in reasons)


def test_what_did_not_run_cannot_be_believed() -> None:
    assert judge(Outcome.CRASHED, make_conditions(), [], PROFILE)[0] is Verdict.INVALID
