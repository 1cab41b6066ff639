from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from edgedeploy.compress.scores import Score, drop_with_error, folds, part, score, without
from edgedeploy.task import Task, predict

pytestmark = pytest.mark.builds


def test_folds_part_the_examples_with_each_class_spread_evenly() -> None:
    targets = np.repeat([0, 1, 2], [50, 7, 13])
    parts = folds(targets, 5, seed=3)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(70))
    assert [len(places) for places in parts] == [14] * 5
    for kind in range(3):
        counts = [int((targets[places] == kind).sum()) for places in parts]
        assert max(counts) - min(counts) <= 1
    assert all((np.diff(places) > 0).all() for places in parts)


def test_folds_follow_the_seed_and_nothing_else() -> None:
    targets = np.arange(20) % 2
    first = folds(targets, 4, seed=0)
    assert all(np.array_equal(one, other) for one, other in zip(first, folds(targets, 4, seed=0), strict=True))
    assert any(not np.array_equal(one, other) for one, other in zip(first, folds(targets, 4, seed=1), strict=True))


@pytest.mark.parametrize("targets", [np.linspace(0, 1, 11), np.zeros((11, 2), dtype=np.int64)])
def test_targets_that_are_no_classes_are_parted_as_well(targets: np.ndarray) -> None:
    parts = folds(targets, 3, seed=0)
    assert sorted(len(places) for places in parts) == [3, 4, 4]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(11))
    assert any((np.diff(places) > 1).any() for places in parts), "drawn at random"


@pytest.mark.parametrize("count", [0, 1, 4])
def test_more_parts_than_examples_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"3 examples cannot be parted into {count}"):
        folds(np.zeros(3, dtype=np.int64), count, seed=0)


def test_a_part_and_the_rest_are_the_whole(tiny: Task) -> None:
    places = np.array([0, 5, 7])
    chosen, rest = part(tiny.train, places), without(tiny.train, places)
    assert (len(chosen), len(rest)) == (3, 57)
    assert np.array_equal(chosen.inputs[0], tiny.train.inputs[0][places])
    assert np.array_equal(np.sort(np.append(chosen.targets, rest.targets)), np.sort(tiny.train.targets))


def test_the_score_is_that_of_the_tasks_loss_and_metric(tiny: Task) -> None:
    import torch
    from torch.nn import functional as F

    model = tiny.load_model().train()
    found = score(model, tiny, tiny.train)
    outputs = predict(model, tiny.train.inputs)
    targets = torch.from_numpy(tiny.train.targets)
    assert found.loss == pytest.approx(float(F.cross_entropy(torch.from_numpy(outputs[0]), targets)), rel=1e-6)
    assert found.metric == pytest.approx(float((outputs[0].argmax(1) == tiny.train.targets).mean()))
    assert found.each is not None
    assert np.array_equal(found.each, outputs[0].argmax(1) == tiny.train.targets)


def test_more_than_one_batch_counts_by_its_size(tiny: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score(tiny.load_model(), tiny, tiny.train)
    monkeypatch.setattr("edgedeploy.compress.scores._BATCH", 7)
    parts = score(tiny.load_model(), tiny, tiny.train)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert parts.metric == whole.metric


def test_a_net_that_gives_no_number_is_as_bad_as_can_be(tiny: Task) -> None:
    import torch

    model = tiny.load_model()
    with torch.no_grad():
        model.get_parameter("0.weight").fill_(float("nan"))
    found = score(model, tiny, tiny.train)
    assert (found.loss, found.metric, found.each) == (math.inf, -math.inf, None)


def test_a_metric_of_one_number_has_no_error(tiny: Task) -> None:
    task = dataclasses.replace(tiny, metric=lambda outputs, targets: 0.5)
    found = score(tiny.load_model(), task, tiny.train)
    assert (found.metric, found.each) == (0.5, None)
    assert drop_with_error(Score(0, 0.75, None), found) == (0.25, 0.0)


def test_the_error_of_a_drop_is_that_of_the_pairs() -> None:
    before = np.array([1.0, 1, 1, 1, 0, 1, 1, 1])
    after = np.array([1.0, 0, 1, 1, 1, 1, 0, 1])
    drop, error = drop_with_error(Score(0, 7 / 8, before), Score(0, 6 / 8, after))
    # Two lost, one gained, five alike: the sum of squares is 3, less the mean's share.
    assert drop == pytest.approx(1 / 8)
    assert error == pytest.approx(math.sqrt((3 - 8 / 64) / 7 / 8))
