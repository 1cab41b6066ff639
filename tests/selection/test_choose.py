from __future__ import annotations

from dataclasses import replace

import pytest

from edgedeploy.plan import Goal, Objective
from edgedeploy.records import Choice, Format, Limits, Outcome, Precision, RuntimeSupport, Target, Verdict
from edgedeploy.selection import Candidate, choose
from tests.support.records import make_device, make_profile, make_report, make_variant


def decide(*candidates: Candidate, limits: Limits | None = None, minimise: Objective = "latency") -> Choice:
    return choose(make_device(), make_profile(), Goal(minimise, limits or Limits()), candidates)


def measured(name: str, p50_ms: float, **changes: object) -> Candidate:
    about_variant = {key: changes.pop(key) for key in ("size_bytes", "drop", "quality", "target") if key in changes}
    variant = make_variant(name, **about_variant)  # type: ignore[arg-type]
    return Candidate(variant, make_report(variant, p50_ms, **changes))  # type: ignore[arg-type]


def reason(choice: Choice, name: str) -> str:
    return next(rejection.reason for rejection in choice.rejected if rejection.variant == name)


def test_the_fastest_that_keeps_the_limits_wins_and_all_others_have_a_reason() -> None:
    choice = decide(
        measured("slow", 2.0),
        measured("fast", 1.0, size_bytes=2000),
        measured("faster-but-bad", 0.5, drop=0.08),
        limits=Limits(max_drop=0.01),
    )
    assert choice.winner == "fast"
    assert choice.ranking == ("fast", "slow")
    assert choice.verdict is Verdict.VALID
    assert {rejection.variant for rejection in choice.rejected} == {"slow", "faster-but-bad"}
    assert "max_drop = 0.01" in reason(choice, "faster-but-bad")
    assert "2 against 1 of fast" in reason(choice, "slow")
    assert choice.confidence == pytest.approx(1.0)


def test_what_is_worse_on_every_count_is_dominated() -> None:
    choice = decide(measured("good", 1.0, size_bytes=500), measured("bad", 2.0, size_bytes=600, drop=0.002))
    assert choice.ranking == ("good",)
    assert reason(choice, "bad").startswith("dominated by good: ")
    assert choice.confidence is None


@pytest.mark.parametrize(
    ("limits", "key"),
    [
        (Limits(max_file_bytes=10), "max_file_bytes"),
        (Limits(max_p50_ms=0.1), "max_p50_ms"),
        (Limits(max_p90_ms=0.1), "max_p90_ms"),
        (Limits(max_peak_rss_bytes=10), "max_peak_rss_bytes"),
        (Limits(min_quality=0.99), "min_quality"),
    ],
)
def test_each_limit_rejects_by_its_own_name(limits: Limits, key: str) -> None:
    choice = decide(measured("only", 1.0), limits=limits)
    assert choice.winner is None
    assert choice.winner_id is None
    assert choice.verdict is None
    assert key in reason(choice, "only")


def test_a_limit_on_what_was_not_measured_is_not_taken_as_kept() -> None:
    choice = decide(measured("only", 1.0), limits=Limits(max_energy_mj=5.0))
    assert choice.winner is None
    assert "energy was not measured (no sensor)" in reason(choice, "only")


def test_a_limit_on_what_a_runner_does_not_tell_is_rejected_for_that() -> None:
    candidate = measured("only", 1.0, absent={"p90": "benchmark_model tells none"})
    assert candidate.report is not None
    metrics = candidate.report.metrics
    assert metrics.latency is not None
    latency = replace(metrics.latency, p90_ms=None)
    candidate = replace(candidate, report=replace(candidate.report, metrics=replace(metrics, latency=latency)))
    choice = decide(candidate, limits=Limits(max_p90_ms=5.0))
    assert "p90 was not measured (benchmark_model tells none)" in reason(choice, "only")


def test_an_objective_that_was_not_measured_rejects() -> None:
    choice = decide(measured("only", 1.0), minimise="energy")
    assert "the goal minimises energy, which was not measured (no sensor)" in reason(choice, "only")


def test_failures_invalid_and_unmeasured_are_never_ranked() -> None:
    variant = make_variant("unmeasured")
    other = make_variant("never", target=Target(Format.TFLITE, Precision.INT8))
    profile = make_profile(runtimes=(RuntimeSupport("onnxruntime", Format.ONNX, (Precision.FP32,)),))
    choice = choose(
        make_device(),
        profile,
        Goal("latency", Limits()),
        [
            measured("crashed", 0.1, outcome=Outcome.CRASHED, detail="Segmentation fault"),
            measured("invalid", 0.1, verdict=Verdict.INVALID, reasons=("the board throttled",)),
            Candidate(variant, None),
            Candidate(other, None),
            measured("fine", 3.0),
        ],
    )
    assert choice.ranking == ("fine",)
    assert reason(choice, "crashed") == "crashed: Segmentation fault"
    assert "the board throttled" in reason(choice, "invalid")
    assert "edgedeploy profile --device here" in reason(choice, "unmeasured")
    assert "no runtime of the profile box runs tflite-int8" in reason(choice, "never")


def test_suspect_never_beats_valid_inside_the_noise() -> None:
    suspect = {"verdict": Verdict.SUSPECT, "reasons": ("the board was busy",)}
    near = decide(measured("suspect", 0.9999, **suspect), measured("valid", 1.0, size_bytes=900))
    assert near.winner == "valid"
    assert near.verdict is Verdict.SUSPECT, "a choice carries its worst verdict"
    assert "inside the noise" in reason(near, "suspect")
    far = decide(measured("suspect", 0.5, **suspect), measured("valid", 1.0, size_bytes=900))
    assert far.winner == "suspect"
    assert far.reasons == ("suspect: the board was busy",)


def test_an_emulated_board_is_a_rehearsal() -> None:
    assert decide(measured("only", 1.0, emulated=True, verdict=Verdict.SUSPECT, reasons=("emulated",))).rehearsal
    assert not decide(measured("only", 1.0)).rehearsal


def test_smallest_file_can_be_the_objective() -> None:
    choice = decide(measured("big", 1.0, size_bytes=900), measured("small", 2.0, size_bytes=100), minimise="file")
    assert (choice.winner, choice.confidence) == ("small", 1.0)


def test_nothing_to_choose_from_is_no_winner() -> None:
    assert decide().winner is None
