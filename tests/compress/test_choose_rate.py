from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from edgedeploy.compress import (
    ChooseRate,
    FineTune,
    OptionalPass,
    PruneChannels,
    QuantiseWeights,
    apply_passes,
    findings,
)
from edgedeploy.compress.scores import folds, part, score, without
from edgedeploy.errors import CompressionError, NothingToDo
from edgedeploy.task import Split, Task
from tests.compress.measures import ZEROS, few, parameters, same_weights

pytestmark = pytest.mark.builds


def choose(inner: Any, setting: str, values: Sequence[float], **more: Any) -> ChooseRate:
    return ChooseRate(
        **{"epochs": 1, "max_drop": 0.02, "folds": 2, **more}, pass_=inner, setting=setting, values=tuple(values)
    )


@dataclasses.dataclass(frozen=True)
class Blur:
    """Adds to every output's bias what depends on the example's fold, so that the drop is known."""

    kind: ClassVar[str] = "blur"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ()

    amount: float
    only_from: int = 0

    def apply(self, model: Any, task: Task) -> Any:
        import torch

        if self.amount > 100:
            raise CompressionError(f"blur: amount {self.amount} is too much")
        with torch.no_grad():
            model.amount += self.amount
        return model


def known(tiny: Task) -> tuple[Task, Any]:
    """A task whose metric is 1 minus the blur of the net times the number of the example's class, and its net."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.register_buffer("amount", torch.zeros(()))

        def forward(self, rows: Any) -> Any:
            return self.layer(rows) * 0 + self.amount

    def metric(outputs: Any, targets: np.ndarray) -> np.ndarray:
        scores: np.ndarray = 1 - outputs[0][:, 0] * (targets + 1)
        return scores

    return dataclasses.replace(tiny, metric=metric), Net()


def test_the_highest_value_within_the_budget_by_one_standard_error_is_applied(tiny: Task) -> None:
    task, net = known(tiny)
    step = choose(Blur(0.0), "amount", (0.001, 0.005, 0.01, 0.02), folds=4)
    parts = folds(task.train.targets, 4, seed=0)
    factors = np.array([(task.train.targets[places] + 1).mean() for places in parts])
    mean, error = factors.mean(), factors.std(ddof=1) / 2
    assert error > 0
    bound = 0.01 * (mean + error)
    for budget, amount in ((bound * 1.001, 0.01), (0.01 * mean * 1.001, 0.005)):
        chosen = dataclasses.replace(step, max_drop=float(budget)).apply(copy.deepcopy(net), task)
        assert float(chosen.get_buffer("amount")) == pytest.approx(amount)
    [note] = findings.notes_of(chosen)
    assert note.startswith("choose-rate: amount of blur became 0.005; drop over 4 folds: 0.001 loses 0.00")
    assert f"0.01 loses {0.01 * mean:.4f} +- {0.01 * error:.4f}" in note


def test_a_value_at_which_the_pass_fails_is_too_strong(tiny: Task) -> None:
    task, net = known(tiny)
    chosen = choose(Blur(0.0), "amount", (0.001, 200.0), max_drop=1000.0).apply(copy.deepcopy(net), task)
    assert float(chosen.get_buffer("amount")) == pytest.approx(0.001)
    assert "200.0 fails (blur: amount 200.0 is too much)" in findings.notes_of(chosen)[0]


def test_no_value_within_the_budget_is_told_with_what_each_lost(tiny: Task) -> None:
    task, net = known(tiny)
    says = (
        r"choose-rate: no value of amount of blur keeps the drop of metric within 0\.001: "
        r"0\.5 loses \d\.\d+ \+- \d\.\d+; 300\.0 fails \(blur: amount 300\.0 is too much\); begin with a milder value"
    )
    with pytest.raises(CompressionError, match=says):
        choose(Blur(0.0), "amount", (0.5, 300.0), max_drop=0.001).apply(net, task)


@pytest.mark.parametrize("family", ["trained_cnn", "trained_gru", "trained_transformer"])
def test_the_value_is_what_cross_validation_by_hand_finds(family: str, request: pytest.FixtureRequest) -> None:
    task = few(request.getfixturevalue(family), 300)
    values, budget = (0.2, 0.97), 0.05
    step = choose(ZEROS(sparsity=0.5), "sparsity", values, max_drop=budget)
    drops: dict[float, list[float]] = {value: [] for value in values}
    for places in folds(task.train.targets, 2, seed=0):
        seen = dataclasses.replace(task, train=without(task.train, places))
        unseen = part(task.train, places)
        untouched = FineTune(1).apply(task.load_model(), seen)
        for value in values:
            try:
                net = FineTune(1).apply(ZEROS(sparsity=value).apply(task.load_model(), seen), seen)
            except CompressionError:
                drops[value].append(math.inf)
                continue
            drops[value].append(score(untouched, task, unseen).metric - score(net, task, unseen).metric)
    assert min(drops[0.97]) > 2 * budget
    assert max(drops[0.2]) < budget / 2, "the nets are trained too little to tell"
    model = apply_passes(task.load_model(), [step, FineTune(1)], task)
    by_hand = apply_passes(task.load_model(), [ZEROS(sparsity=0.2), FineTune(1), FineTune(1)], task)
    assert same_weights(model, by_hand)


def test_a_structured_pass_is_chosen_as_well(tiny: Task) -> None:
    step = choose(PruneChannels(0.9), "ratio", (0.2, 0.5), max_drop=1.0)
    model = apply_passes(tiny.load_model(), [step], tiny)
    assert parameters(model) == parameters(PruneChannels(0.5).apply(tiny.load_model(), tiny))


def test_a_pass_after_which_nothing_may_come_is_not_trained_again(tiny: Task) -> None:
    inner = QuantiseWeights(1, scheme="uniform", bits=8)
    chosen = apply_passes(tiny.load_model(), [choose(inner, "bits", (8, 4, 2), max_drop=1.0)], tiny)
    same = dataclasses.replace(inner, bits=2)
    assert same_weights(chosen, apply_passes(tiny.load_model(), [same], tiny))


def test_neither_calibration_nor_selection_nor_test_data_is_looked_at(tiny: Task) -> None:
    nothing = Split((np.full((3, 4), np.nan, dtype=np.float32),), np.zeros(3, dtype=np.int64))
    blind = dataclasses.replace(tiny, calibration=nothing, selection=nothing, test=nothing)
    step = choose(ZEROS(sparsity=0.5), "sparsity", (0.1, 0.5), max_drop=1.0)
    assert same_weights(step.apply(blind.load_model(), blind), step.apply(tiny.load_model(), tiny))


def test_a_net_with_nothing_for_the_pass_says_so(trained_gru: Task) -> None:
    step = choose(PruneChannels(0.5), "ratio", (0.1, 0.5))
    with pytest.raises(NothingToDo, match="prune-channels: nothing was pruned"):
        step.apply(trained_gru.load_model(), trained_gru)
    model = apply_passes(trained_gru.load_model(), [OptionalPass(step)], trained_gru)
    assert findings.notes_of(model)[0].startswith("left out prune-channels")


def test_more_folds_than_examples_are_told(tiny: Task) -> None:
    with pytest.raises(CompressionError, match="folds is 61, but the training split holds 60; lower folds"):
        choose(ZEROS(sparsity=0.5), "sparsity", (0.5,), folds=61).apply(tiny.load_model(), tiny)


def test_training_that_diverges_is_told(tiny: Task) -> None:
    step = choose(ZEROS(sparsity=0.5), "sparsity", (0.5,), epochs=3, learning_rate=1e30, optimiser="sgd")
    with pytest.raises(CompressionError, match=r"choose-rate: the loss became .*; lower learning_rate"):
        step.apply(tiny.load_model(), tiny)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"setting": "sparsty"}, r"'sparsty' is no number that .* \(did you mean `sparsity`\?\); it has sparsity"),
        ({"inner": PruneChannels(0.5), "setting": "scope"}, "'scope' is no number that prune-channels may be given"),
        ({"values": ()}, "values is empty"),
        ({"values": (0.5, 0.9, 0.7)}, r"values is \[0.5, 0.9, 0.7\]; it must run from mild to strong"),
        ({"values": (0.5, 0.5)}, "it must run from mild to strong"),
        ({"values": (0.5, 1.5)}, "values hold 1.5, but of .* sparsity is 1.5; it must lie between 0 and 1"),
        ({"values": (-0.5, 0.5)}, "values hold -0.5, but of .* sparsity is -0.5"),
        (
            {"inner": PruneChannels(0.5), "setting": "round_to", "values": (1, 2.5)},
            "2.5 is no whole number, which round_to",
        ),
        ({"max_drop": -1}, "max_drop is -1; it must be 0 or above"),
        ({"max_drop": math.nan}, "max_drop is nan"),
        ({"folds": 1}, "folds is 1; it must be at least 2"),
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], says: str) -> None:
    given = {"inner": ZEROS(sparsity=0.5), "setting": "sparsity", "values": (0.5, 0.7), **settings}
    with pytest.raises(ValueError, match=says):
        choose(given.pop("inner"), given.pop("setting"), given.pop("values"), **given)
