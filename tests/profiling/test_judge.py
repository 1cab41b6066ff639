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
        (Snapshot(cooling={"cpufreq-cpu4": 0, "cpufreq-cpu0": 2}), r"for its heat (cpufreq-cpu0 = 2)"),
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


def test_a_board_that_could_slow_down_and_does_not_is_fine() -> None:
    assert void_reason(make_repetition(1.0, after=Snapshot(cooling={"cpufreq-cpu0": 0})), PROFILE) is None


def test_throttling_since_boot_is_history() -> None:
    assert void_reason(make_repetition(1.0, before=Snapshot(throttled=0x50000)), PROFILE) is None


def test_another_accelerator_than_asked_is_invalid() -> None:
    verdict, reasons = verdict_of(*(make_repetition(1.0) for _ in range(3)), accelerator="cuda", accelerator_share=0.0)
    assert (verdict, reasons) == (Verdict.INVALID, ("ran on cpu where cuda was asked for",))
    fell_back = make_conditions(accelerator="cuda", accelerator_share=0.0, placement={"cpu": 40})
    assert judge(Outcome.UNSUPPORTED, fell_back, [], PROFILE) == (
        Verdict.INVALID,
        ("the outcome is unsupported", "ran on cpu where cuda was asked for"),
    )


@pytest.mark.parametrize(
    ("share", "placement", "reasons"),
    [
        (1.0, {"cuda": 40}, ()),
        (0.925, {"cuda": 37, "cpu": 3}, ("92 % of the net's nodes ran on cuda: 3 of 40 nodes on cpu",)),
        (None, {}, ("the runtime does not tell whether cuda took the net",)),
    ],
)
def test_a_part_that_ran_elsewhere_makes_it_suspect(
    share: float | None, placement: dict[str, int], reasons: tuple[str, ...]
) -> None:
    on_cuda = {"accelerator": "cuda", "accelerator_used": "cuda", "accelerator_share": share, "placement": placement}
    verdict, told = verdict_of(*(make_repetition(1.0) for _ in range(3)), **on_cuda)
    assert (verdict, told) == (Verdict.SUSPECT if reasons else Verdict.VALID, reasons)


def test_kernels_that_the_runtime_picks_for_the_cpu_are_the_cpu() -> None:
    there = {"accelerator_share": 1.0, "placement": {"xnnpack": 9, "cpu": 2}}
    assert verdict_of(*(make_repetition(1.0) for _ in range(3)), **there) == (Verdict.VALID, ())


def test_a_board_that_lacks_what_its_profile_promises_is_suspect() -> None:
    promised = make_profile(isa=("asimd", "asimddp"))
    kept = [make_repetition(1.0) for _ in range(3)]
    lacking = make_conditions(*kept, isa=("asimd", "crc32"))
    assert judge(Outcome.OK, lacking, kept, promised) == (
        Verdict.SUSPECT,
        ("the board lacks asimddp, which its profile box names",),
    )
    for fine in (make_conditions(*kept, isa=("asimd", "asimddp", "i8mm")), make_conditions(*kept, isa=())):
        assert judge(Outcome.OK, fine, kept, promised) == (Verdict.VALID, ())
    emulated = make_conditions(*kept, isa=("avx2",), emulated=True)
    assert judge(Outcome.OK, emulated, kept, promised) == (Verdict.SUSPECT, ("emulated",))


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
