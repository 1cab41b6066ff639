from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedeploy import export
from edgedeploy.compress import FineTune, PruneAdaptively, apply_passes, findings
from edgedeploy.compress.held import masks_of
from edgedeploy.compress.prune_adaptively import sparsity
from edgedeploy.compress.scores import drop_with_error, folds, part, score
from edgedeploy.compress.sensitivity import RATES
from edgedeploy.compress.weights import weights
from edgedeploy.errors import CompressionError, NothingToDo
from edgedeploy.records import Format, Pass, Precision, Target
from edgedeploy.task import Split, Task
from tests.compress.measures import few, same_weights

pytestmark = pytest.mark.builds

MILD: dict[str, Any] = {"epochs": 1, "learning_rate": 1e-3, "max_drop": 0.1, "step": 0.5}


def rates(model: Any, names: Sequence[str]) -> dict[str, float]:
    return {name: sparsity(model, name) for name in names}


def held_out(task: Task, seed: int = 0) -> Split:
    return part(task.train, folds(task.train.targets, 5, seed)[0])


@pytest.mark.parametrize(
    ("family", "only"),
    [
        ("trained_cnn", ("8", "11")),
        ("trained_gru", ()),
        ("trained_transformer", ("blocks.1",)),
    ],
)
def test_each_family_loses_what_the_budget_allows(
    family: str, only: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    task = few(request.getfixturevalue(family), 300)
    before = task.load_model()
    names = [name for name, _, _ in weights(before)]
    only = tuple(entry for entry in only if any(name.startswith(f"{entry}.") for name in names))
    step = PruneAdaptively(**{**MILD, "step": 0.9}, max_sparsity=0.9, only=only)
    after = step.apply(task.load_model(), task)
    judge = held_out(task)
    drop, error = drop_with_error(score(before, task, judge), score(after, task, judge))
    assert drop + error <= 0.1 + 1e-6
    found = rates(after, names)
    touched = [name for name in names if not only or name.startswith(only)]
    assert sum(found.values()) > 0.1 * len(touched)
    assert all(rate == 0 for name, rate in found.items() if name not in touched)
    for name in touched:
        assert found[name] == pytest.approx(1 - float(masks_of(after)[name].double().mean())) if found[name] else True
    scanned = findings.sensitivity_of(after)
    assert [(one.layer, one.sparsity) for one in scanned] == [(name, rate) for name in touched for rate in RATES]


def test_the_same_seed_gives_the_same_net_and_its_zeros_survive(trained_gru: Task) -> None:
    passes: list[Pass] = [PruneAdaptively(**MILD), FineTune(1)]
    one = apply_passes(trained_gru.load_model(), passes, trained_gru)
    other = apply_passes(trained_gru.load_model(), passes, trained_gru)
    pruned = apply_passes(trained_gru.load_model(), passes[:1], trained_gru)
    assert same_weights(one, other)
    assert not same_weights(one, pruned)
    names = [name for name, _, _ in weights(one)]
    assert rates(one, names) == rates(pruned, names)
    [note] = findings.notes_of(one)
    assert "% of the weights are zero, from " in note
    assert note.endswith("judged on 200 examples held out of the training split")
    assert len(findings.sensitivity_of(one)) == len(names) * len(RATES)


def test_no_layer_could_bear_another_cut(trained_gru: Task) -> None:
    """Every cut that was given back did break the budget: here by hand, one layer at a time."""
    from edgedeploy.compress.prune_adaptively import _cut

    step = PruneAdaptively(**MILD, max_sparsity=0.99)
    task = trained_gru
    after = step.apply(task.load_model(), task)
    judge = held_out(task)
    seen = dataclasses.replace(task, train=_rest(task))
    reference = score(task.load_model(), task, judge)
    tried = 0
    for name, _, _ in weights(after):
        rate = min(sparsity(after, name) + step.step * (1 - sparsity(after, name)), 0.99)
        if rate >= 0.99:
            continue
        candidate = _cut(after, {name: rate})
        candidate = FineTune(1, learning_rate=1e-3).apply(candidate, seen)
        drop, error = drop_with_error(reference, score(candidate, task, judge))
        # The last layer to be closed was judged on just this net; others on one that came before.
        tried += drop + error > step.max_drop
    assert tried >= 1


def _rest(task: Task) -> Split:
    places = folds(task.train.targets, 5, 0)[0]
    return part(task.train, np.setdiff1d(np.arange(len(task.train)), places))


def test_a_large_calibration_split_is_the_judge(tiny: Task) -> None:
    many = Split(
        tuple(np.tile(array, (20, 1)) for array in tiny.calibration.inputs), np.tile(tiny.calibration.targets, 20)
    )
    task = dataclasses.replace(tiny, calibration=many)
    [note] = findings.notes_of(PruneAdaptively(epochs=1, max_drop=0.5, step=0.5).apply(task.load_model(), task))
    assert note.endswith("judged on the 200 examples of the calibration split")


def test_neither_selection_nor_test_data_is_looked_at(tiny: Task) -> None:
    nothing = Split((np.full((3, 4), np.nan, dtype=np.float32),), np.zeros(3, dtype=np.int64))
    blind = dataclasses.replace(tiny, selection=nothing, test=nothing)
    step = PruneAdaptively(epochs=1, max_drop=0.3, step=0.5)
    assert same_weights(step.apply(blind.load_model(), blind), step.apply(tiny.load_model(), tiny))


def test_a_budget_that_nothing_keeps_is_told(tiny: Task) -> None:
    task = dataclasses.replace(tiny, metric=lambda outputs, targets: -float(np.square(outputs[0] - 7.0).mean()))
    with pytest.raises(CompressionError, match=r"no layer can lose any weights without metric dropping by more than 0"):
        PruneAdaptively(epochs=1, learning_rate=1e-9, max_drop=0.0).apply(_ones(task), task)


def _ones(task: Task) -> Any:
    """Every weight counts, the same way."""
    import torch

    model = task.load_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.1)
    return model


def test_training_that_diverges_is_told(tiny: Task) -> None:
    with pytest.raises(CompressionError, match=r"prune-adaptively: the loss became .*; lower learning_rate"):
        PruneAdaptively(epochs=3, learning_rate=1e30, optimiser="sgd", max_drop=1.0).apply(tiny.load_model(), tiny)


def test_a_net_without_layers_has_nothing_to_prune(tiny: Task) -> None:
    from torch import nn

    with pytest.raises(NothingToDo, match="prune-adaptively: the net has no convolution"):
        PruneAdaptively(epochs=1, max_drop=0.1).apply(nn.ReLU(), tiny)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_drop": -0.1}, "max_drop is -0.1; it must be 0 or above"),
        ({"max_drop": math.inf}, "max_drop is inf"),
        ({"max_drop": 0.1, "step": 1.0}, "step is 1.0; it must lie between 0 and 1, both excluded"),
        ({"max_drop": 0.1, "max_sparsity": 0.0}, "max_sparsity is 0.0; it must lie between 0 and 1"),
        ({"max_drop": 0.1, "epochs": 0}, "epochs is 0; it must be at least 1"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        PruneAdaptively(**{"epochs": 1, **settings})


def test_what_is_left_exports(trained_gru: Task, tmp_path: Path) -> None:
    model = apply_passes(trained_gru.load_model(), [PruneAdaptively(**MILD, max_sparsity=0.7)], trained_gru)
    target = Target(Format.ONNX, Precision.FP32)
    exported = export.export(model, target, trained_gru, tmp_path)
    assert export.check_parity(exported, target, trained_gru).relative_rms_error < 1e-4
