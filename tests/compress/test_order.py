from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from edgedeploy.compress import PASSES, ChooseRate, FineTune, OptionalPass, QuantiseAware, apply_passes, misplaced
from edgedeploy.compress.order import LAST, NOT_AFTER, ONCE
from edgedeploy.errors import CompressionError, PlanError
from edgedeploy.plan import load_plan
from edgedeploy.records import Pass
from edgedeploy.task import Task


@dataclass(frozen=True)
class Named:
    """A pass that bears a kind and does nothing."""

    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ()
    kind: str = field(default="")
    student: str = "self"

    def apply(self, model: Any, task: Task) -> Any:
        return model


def one(kind: str, student: str = "self") -> Any:
    return Named(kind, student)


def named(*kinds: str) -> list[Pass]:
    return [one(kind) for kind in kinds]


@pytest.mark.parametrize(
    ("kinds", "place", "says"),
    [
        (
            ["fine-tune", "quantise-aware", "fine-tune"],
            2,
            "fine-tune: no pass may follow quantise-aware, for the scales",
        ),
        (["quantise-weights", "optional"], 1, "no pass may follow quantise-weights"),
        (
            ["share-weights", "fine-tune", "fold-batch-norm"],
            2,
            "it may not follow share-weights, for folding multiplies",
        ),
        (["prune-gradually", "factorise"], 1, "fills the zeros again; put factorise before prune-gradually"),
        (["share-weights", "factorise"], 1, "factorise: it may not follow share-weights"),
        (["hash-weights", "prune-weights"], 1, "fitted to weights that pruning takes away"),
        (["share-weights", "prune-adaptively"], 1, "prune-adaptively: it may not follow share-weights"),
        (["share-weights", "quantise-aware"], 1, "its grid moves the weights off"),
        (["share-weights", "quantise-weights"], 1, "its grid moves the weights off"),
        (["prune-channels", "prune-iteratively"], 1, "it rewinds to the task's own net"),
        (["fold-batch-norm", "fine-tune", "prune-iteratively"], 2, "it rewinds"),
        (["share-weights", "soup"], 1, "the mean of several nets"),
        (["reorder-channels", "prune-heads"], 1, "the order that it found"),
        (["fold-batch-norm", "fine-tune", "fold-batch-norm"], 2, "it is there twice, but the first folds all"),
    ],
)
def test_what_would_spoil_an_earlier_pass_is_told(kinds: Sequence[str], place: int, says: str) -> None:
    found = misplaced(named(*kinds))
    assert found is not None
    assert found[0] == place
    assert says in found[1]
    assert found[1].startswith(f"{kinds[place]}: ")


@pytest.mark.parametrize(
    "kinds",
    [
        [],
        ["prune-channels", "distil", "prune-gradually", "fine-tune", "fold-batch-norm", "share-weights", "fine-tune"],
        ["prune-weights", "share-weights", "fine-tune", "reorder-channels"],
        ["sparsify", "prune-channels"],
        ["factorise", "prune-weights"],
        ["prune-weights", "quantise-aware"],
        ["fine-tune", "prune-weights", "prune-weights"],
    ],
)
def test_other_orders_are_left_alone(kinds: Sequence[str]) -> None:
    assert misplaced(named(*kinds)) is None


def test_a_fresh_student_comes_first() -> None:
    distil = one("distil", student="task")
    assert misplaced([distil, *named("fine-tune")]) is None
    found = misplaced([*named("prune-channels"), distil])
    assert found is not None
    assert found[0] == 1
    assert "what prune-channels did before would be lost; put it first" in found[1]
    assert misplaced(named("prune-channels", "distil")) is None, "the net itself as the student is no fresh one"


def test_a_wrapped_pass_counts_as_if_it_stood_there() -> None:
    steps: list[Pass] = [OptionalPass(one("share-weights")), OptionalPass(OptionalPass(one("fold-batch-norm")))]
    found = misplaced(steps)
    assert found is not None
    assert found[1].startswith("fold-batch-norm: it may not follow share-weights")


@pytest.mark.builds
def test_passes_are_refused_before_any_work_is_done(tiny: Task) -> None:
    from tests.compress.measures import same_weights

    model = tiny.load_model()
    with pytest.raises(CompressionError, match="fine-tune: no pass may follow quantise-aware"):
        apply_passes(model, [FineTune(1), OptionalPass(QuantiseAware(1)), FineTune(1)], tiny)
    assert same_weights(model, tiny.load_model())


def test_a_plan_is_refused_when_it_is_read(tmp_path: Path) -> None:
    plan = (
        '[task]\nfile = "task.py"\n[[recipe]]\nname = "a"\nformats = ["onnx"]\nprecisions = ["fp32"]\n'
        '[[recipe]]\nname = "b"\nformats = ["onnx"]\nprecisions = ["fp32"]\npasses = [\n'
        '  { kind = "fine-tune", epochs = 1 },\n  { kind = "quantise-aware", epochs = 1 },\n'
        '  { kind = "optional", pass = { kind = "prune-channels", ratio = 0.5 } },\n]\n'
    )
    (tmp_path / "edgedeploy.toml").write_text(plan)
    says = r"edgedeploy\.toml: recipe\[1\]\.passes\[2\]: prune-channels: no pass may follow quantise-aware, for .*\.$"
    with pytest.raises(PlanError, match=says):
        load_plan(tmp_path, PASSES, misplaced)


def test_the_reasons_read_on_from_the_sentence() -> None:
    for reason in (*LAST.values(), *ONCE.values(), *NOT_AFTER.values()):
        assert reason[0].islower()
        assert not reason.endswith(".")


def kinds_in_the_table() -> set[str]:
    return {*LAST, *ONCE, *(kind for pair in NOT_AFTER for kind in pair), "distil"}


def test_every_kind_in_the_table_is_there() -> None:
    assert kinds_in_the_table() - PASSES.keys() == set()


def test_the_table_holds_the_passes_that_are_there() -> None:
    known = {FineTune.kind, ChooseRate.kind, OptionalPass.kind}
    assert {"quantise-aware", "quantise-weights", "prune-adaptively"} <= kinds_in_the_table() & PASSES.keys()
    assert not known & kinds_in_the_table(), "these may stand anywhere"
