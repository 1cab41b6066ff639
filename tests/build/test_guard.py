"""A file that loses too much gets the layers back that ruin it, those alone, or is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgedeploy import export
from edgedeploy.build.guard import MOST_STEPS, Guard, Guarded, _groups
from edgedeploy.errors import AccuracyError
from edgedeploy.evaluate import evaluate, evaluate_model
from edgedeploy.records import Format, Precision, Target
from tests.build import coarse
from tests.build.nets import LAYERS, copies

pytestmark = pytest.mark.builds

INT8 = Target(Format.ONNX, Precision.W8)


@pytest.fixture(autouse=True)
def coarse_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(export.EXPORTERS, Format.ONNX, coarse)
    monkeypatch.setattr(export, "run_once_apart", lambda *_: None)  # a second each, and no file here crashes


def guard(folder: Path, *hostile: str, max_drop: float = 0.01, selection: int = 400, **changes: Any) -> Guard:
    net, task = copies(*hostile, selection=selection)
    # The test split is not for the guard: it must do without one.
    unseen = replace(task, test=None)  # type: ignore[arg-type]
    source = evaluate_model(net, unseen, "selection")
    float_file = export.convert(net, INT8.format, unseen, folder)
    return Guard(float_file, INT8, source, max_drop, folder, **changes)


def accuracy_of(guarded: Guarded) -> float:
    _, task = copies()
    return evaluate(guarded.exported.path, guarded.exported.contract, task, "test").quality.value


def test_a_file_that_loses_nothing_passes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarse, "layers", None)  # no layer is even asked for
    held = guard(tmp_path).export()
    assert (held.kept_float, held.sensitivity) == ((), ())
    assert accuracy_of(held) == 1.0


@pytest.mark.parametrize("hostile", LAYERS)
def test_exactly_the_layer_that_ruins_it_is_given_back(tmp_path: Path, hostile: str) -> None:
    told: list[str] = []
    held = guard(tmp_path, hostile, say=told.append).export()
    assert held.kept_float == (hostile,)
    assert accuracy_of(held) == 1.0
    first, *rest = held.sensitivity
    assert first.layer == hostile
    assert first.drop_recovered > 0.5
    assert first.error_recovered > 0.5
    assert {one.layer for one in rest} == set(LAYERS) - {hostile}
    assert all(abs(one.drop_recovered) < 0.05 for one in rest)
    assert told[0] == "what first loses (1/3)"
    assert told[-1] == f"keep {hostile} in float"


def test_as_many_layers_as_it_takes(tmp_path: Path) -> None:
    held = guard(tmp_path, "first", "head").export()
    assert set(held.kept_float) == {"first", "head"}
    assert accuracy_of(held) == 1.0


def test_a_hopeless_net_is_refused_with_the_table(tmp_path: Path) -> None:
    with pytest.raises(AccuracyError) as raised:
        guard(tmp_path, *LAYERS).export()
    sentence, *table = str(raised.value).splitlines()
    assert "onnx-w8: the file loses 0.7" in sentence
    assert "max_drop is 0.01, and no layer that stays in float mends it; take a precision with more bits" in sentence
    assert sorted(line.split()[0] for line in table) == sorted(LAYERS)
    assert all("recovers +" in line and line.endswith(" us") for line in table)


def test_what_is_allowed_is_allowed(tmp_path: Path) -> None:
    assert guard(tmp_path, *LAYERS, max_drop=0.9).export().kept_float == ()


def test_too_few_examples_cannot_show_a_small_drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarse, "layers", None)
    # 1 - 0.05^(1/100): the exact bound where not one of a hundred is lost.
    with pytest.raises(AccuracyError, match=r"100 selection examples cannot show.* less than 0\.0295, .* is 0\.01;"):
        guard(tmp_path, "head", selection=100).export()
    with pytest.raises(AccuracyError, match="give more examples, or allow more"):
        guard(tmp_path, selection=100).export()


def test_many_layers_are_taken_in_groups_of_neighbours() -> None:
    names = [f"layer{i}" for i in range(100)]
    groups = _groups(names)
    assert len(groups) == MOST_STEPS
    assert [name for group in groups for name in group] == names
    assert {len(group) for group in groups} == {4, 5}
    assert _groups(names[:3]) == [("layer0",), ("layer1",), ("layer2",)]
    assert _groups([]) == []


def test_a_group_is_given_back_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgedeploy.build.guard.MOST_STEPS", 2)
    held = guard(tmp_path, "head").export()
    assert held.kept_float == ("second", "head")
    assert held.sensitivity[0].layer == "second to head"
