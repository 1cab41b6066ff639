import copy
import re
from typing import Any

import pytest

from edgedeploy.compress import FineTune, PruneGradually, PruneWeights, QuantiseWeights, apply_passes
from edgedeploy.compress.held import hold, masks_of
from edgedeploy.compress.weights import weights
from edgedeploy.errors import CompressionError
from edgedeploy.records import Pass
from edgedeploy.task import Task
from tests.compress.measures import accuracy, same_weights
from tests.export.nets import Cnn, Gru, Transformer, digits_task

pytestmark = pytest.mark.builds


def sparsity(model: Any) -> float:
    found = [(int((weight == 0).sum()), weight.numel()) for _, weight, _ in weights(model)]
    return sum(zeros for zeros, _ in found) / sum(count for _, count in found)


@pytest.mark.parametrize("importance", ["l1", "gradient"])
@pytest.mark.parametrize("family", [Cnn, Gru, Transformer])
def test_a_net_bears_more_zeros_than_at_once(family: Any, importance: Any) -> None:
    task = digits_task(family)
    settings: dict[str, Any] = {"epochs": 10, "learning_rate": 1e-2, "batch_size": 32}
    step = PruneGradually(**settings, sparsity=0.8, importance=importance)
    model = apply_passes(task.load_model(), [step], task)
    at_once = apply_passes(task.load_model(), [FineTune(**settings), PruneWeights(0.8)], task)
    assert sparsity(model) == pytest.approx(0.8, abs=1e-3)
    assert accuracy(model, task) > accuracy(at_once, task) + 0.1
    assert model.state_dict().keys() == task.load_model().state_dict().keys()
    assert not masks_of(model)


def test_the_share_follows_the_cubic_of_zhu_and_gupta() -> None:
    step = PruneGradually(1, sparsity=0.9, initial_sparsity=0.1, begin=0.2, end=0.8)
    for progress in (0.2, 0.35, 0.5, 0.7, 0.8):
        expected = 0.9 + (0.1 - 0.9) * (1 - (progress - 0.2) / (0.8 - 0.2)) ** 3
        assert step.sparsity_at(progress) == pytest.approx(expected)
    assert step.sparsity_at(0.1) == 0.0
    assert step.sparsity_at(0.2) == pytest.approx(0.1)
    assert step.sparsity_at(0.99) == 0.9


def _seen(step: PruneGradually, model: Any, task: Task, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many weights are held at zero after each jump."""
    counts: list[int] = []

    def watched(model: Any, masks: Any) -> None:
        hold(model, masks)
        counts.append(sum(int((~mask).sum()) for mask in masks_of(model).values()))

    monkeypatch.setattr("edgedeploy.compress.gradual_pruning.hold", watched)
    step.apply(model, task)
    return counts


def test_it_jumps_every_so_many_steps(tiny: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    step = PruneGradually(4, batch_size=6, sparsity=0.6, every=5, end=0.5)  # 40 steps, of which 20 prune
    expected = [round(112 * step.sparsity_at((number - 1) / 40)) for number in (5, 10, 15, 20, 25)]
    assert _seen(step, tiny.load_model(), tiny, monkeypatch) == expected
    assert expected[-1] == round(0.6 * 112)


@pytest.mark.parametrize(("end", "every"), [(1.0, 1), (0.5, 1000)])
def test_the_whole_share_is_reached_whatever_the_jumps(tiny: Task, end: float, every: int) -> None:
    model = PruneGradually(2, sparsity=0.5, end=end, every=every).apply(tiny.load_model(), tiny)
    assert sum(int((weight == 0).sum()) for _, weight, _ in weights(model)) == 56


def test_zeros_of_before_stay_and_count(tiny: Task) -> None:
    once = apply_passes(tiny.load_model(), [PruneWeights(0.5, importance="random")], tiny)
    steps: list[Pass] = [PruneWeights(0.5, importance="random"), PruneGradually(2, sparsity=0.7, every=1)]
    model = apply_passes(tiny.load_model(), steps, tiny)
    assert sum(int((weight == 0).sum()) for _, weight, _ in weights(model)) == round(0.7 * 112)
    for (_, one, _), (_, other, _) in zip(weights(once), weights(model), strict=True):
        assert not (other[one == 0] != 0).any()


def test_the_least_important_by_gradient_go(tiny: Task) -> None:
    """Where an input is always zero its weights have no gradient, however large they are."""
    import torch

    tiny.train.inputs[0][:, 2] = 0.0
    model = tiny.load_model()
    with torch.no_grad():
        model.get_parameter("0.weight")[:, 2] = 5.0
    settings: dict[str, Any] = {"sparsity": 0.25, "every": 1, "only": ("0",), "weight_decay": 0.0}
    by_gradient = PruneGradually(2, importance="gradient", **settings).apply(copy.deepcopy(model), tiny)
    assert not by_gradient.get_parameter("0.weight")[:, 2].any()
    by_magnitude = PruneGradually(2, importance="l1", **settings).apply(copy.deepcopy(model), tiny)
    assert by_magnitude.get_parameter("0.weight")[:, 2].all()


def test_only_and_skip_and_the_scope_say_where(tiny: Task) -> None:
    def found(**settings: Any) -> list[int]:
        model = PruneGradually(1, sparsity=0.5, every=1, **settings).apply(tiny.load_model(), tiny)
        return [int((weight == 0).sum()) for _, weight, _ in weights(model)]

    assert found(scope="layer") == [32, 24]
    assert found(only=("0",)) == [32, 0]
    assert found(skip=("0",)) == [0, 24]


@pytest.mark.parametrize("importance", ["l1", "gradient"])
def test_the_same_seed_gives_the_same_net(tiny: Task, importance: Any) -> None:
    def net(seed: int) -> Any:
        return PruneGradually(2, batch_size=16, sparsity=0.6, importance=importance, seed=seed).apply(
            tiny.load_model(), tiny
        )

    assert same_weights(net(0), net(0))
    assert not same_weights(net(0), net(1))


@pytest.mark.parametrize("later", [FineTune(1, 1e-2), QuantiseWeights(1, bits=4), PruneWeights(0.2)])
def test_later_passes_keep_the_zeros(tiny: Task, later: Pass) -> None:
    step = PruneGradually(2, sparsity=0.6)
    once = apply_passes(tiny.load_model(), [step], tiny)
    model = apply_passes(tiny.load_model(), [step, later], tiny)
    for (_, one, _), (_, other, _) in zip(weights(once), weights(model), strict=True):
        assert not (other[one == 0] != 0).any()


def test_a_layer_that_would_lose_all_is_named(tiny: Task) -> None:
    import torch

    model = tiny.load_model()
    with torch.no_grad():
        model.get_parameter("0.weight").mul_(1e-6)
    with pytest.raises(
        CompressionError, match=r"prune-gradually: sparsity 0\.\d+ leaves no weight at all in 0\.weight"
    ):
        PruneGradually(1, 1e-9, sparsity=0.8).apply(model, tiny)


def test_a_net_without_weights_is_refused(tiny: Task) -> None:
    from torch import nn

    with pytest.raises(CompressionError, match="prune-gradually: the net has no convolution, linear or recurrent"):
        PruneGradually(1, sparsity=0.8).apply(nn.ReLU(), tiny)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, "sparsity is 1.0; it must lie between 0 and 1, both excluded"),
        ({"initial_sparsity": 0.5}, "initial_sparsity is 0.5; it must be at least 0 and below sparsity"),
        ({"begin": -0.1}, "begin is -0.1; it must be at least 0 and below 1"),
        ({"begin": 0.5, "end": 0.5}, "end is 0.5; it must be above begin and at most 1"),
        ({"end": 1.1}, "end is 1.1; it must be above begin and at most 1"),
        ({"every": 0}, "every is 0; it must be at least 1"),
        ({"importance": "l2"}, "importance is 'l2'; it must be l1 or gradient"),
        ({"scope": "all"}, "scope is 'all'; it must be global or layer"),
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
    ],
)
def test_the_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        PruneGradually(**{"epochs": 1, "sparsity": 0.5, **settings})
