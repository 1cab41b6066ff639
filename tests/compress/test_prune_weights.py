import copy
from collections.abc import Callable
from typing import Any

import pytest

from edgedeploy.compress import FineTune, PruneWeights, apply_passes, finalise
from edgedeploy.compress.held import masks_of
from edgedeploy.errors import CompressionError
from edgedeploy.task import Task
from tests.compress.measures import accuracy, same_weights

pytestmark = pytest.mark.builds


def weights(model: Any) -> list[Any]:
    return [parameter for parameter in model.parameters() if parameter.ndim >= 2]


def zeros(model: Any) -> int:
    return sum(int((weight == 0).sum()) for weight in weights(model))


@pytest.mark.parametrize("family", ["trained_cnn", "trained_gru", "trained_transformer"])
def test_the_zeros_survive_fine_tuning_and_are_permanent(family: str, request: pytest.FixtureRequest) -> None:
    task: Task = request.getfixturevalue(family)
    pruned = apply_passes(task.load_model(), [PruneWeights(0.6)], task)
    model = apply_passes(task.load_model(), [PruneWeights(0.6), FineTune(2, 2e-3)], task)
    total = sum(p.numel() for p in weights(pruned))
    if family == "trained_transformer":
        total -= pruned.get_parameter("position").numel()  # not a layer's weight
    assert zeros(pruned) == zeros(model) == round(0.6 * total)
    assert not same_weights(pruned, model)
    assert accuracy(model, task) > max(accuracy(pruned, task), 0.8)
    assert model.state_dict().keys() == task.load_model().state_dict().keys()
    assert not masks_of(model)


def test_the_smallest_over_all_layers_go_and_the_rest_is_untouched(tiny: Task) -> None:
    import torch

    before = tiny.load_model()
    after = apply_passes(copy.deepcopy(before), [PruneWeights(0.3)], tiny)
    old = torch.cat([weight.detach().flatten() for weight in weights(before)])
    new = torch.cat([weight.detach().flatten() for weight in weights(after)])
    gone = new == 0
    assert int(gone.sum()) == round(0.3 * len(old))
    assert old[gone].abs().max() <= old[~gone].abs().min()
    assert torch.equal(new[~gone], old[~gone])
    assert not torch.signbit(new[gone]).any(), "one kind of zero packs better than two"
    for old_bias, new_bias in zip(before.parameters(), after.parameters(), strict=True):
        assert old_bias.ndim >= 2 or torch.equal(old_bias, new_bias)


def test_equal_magnitudes_do_not_spoil_the_count(tiny: Task) -> None:
    import torch

    model = tiny.load_model()
    with torch.no_grad():
        for weight in weights(model):
            weight.fill_(0.5)
    assert zeros(apply_passes(model, [PruneWeights(0.25)], tiny)) == round(0.25 * (64 + 48))


def test_pruning_twice_keeps_the_earlier_zeros(tiny: Task) -> None:
    once = apply_passes(tiny.load_model(), [PruneWeights(0.5)], tiny)
    model = apply_passes(tiny.load_model(), [PruneWeights(0.5), PruneWeights(0.2), FineTune(1)], tiny)
    for one, other in zip(weights(once), weights(model), strict=True):
        assert ((one == 0) == (other == 0)).all()


def test_the_gates_of_a_recurrent_layer_compute_with_the_zeros(trained_gru: Task) -> None:
    import torch

    model = PruneWeights(0.9).apply(trained_gru.load_model(), trained_gru)
    fresh = trained_gru.model().eval()
    fresh.load_state_dict(model.state_dict())
    rows = torch.from_numpy(trained_gru.test.inputs[0][:5])
    assert torch.equal(model(rows), fresh(rows))


def test_a_layer_without_any_weight_left_is_refused(tiny: Task) -> None:
    import torch

    model = tiny.load_model()
    with torch.no_grad():
        model.get_parameter("0.weight").mul_(1e-6)
    with pytest.raises(CompressionError, match=r"sparsity 0.8 leaves no weight at all in 0\.weight; lower"):
        apply_passes(model, [PruneWeights(0.8)], tiny)


def test_a_net_without_weights_is_refused(tiny: Task) -> None:
    from torch import nn

    with pytest.raises(CompressionError, match="no convolution, linear or recurrent layer"):
        PruneWeights(0.5).apply(nn.ReLU(), tiny)


def _revive(model: Any) -> None:
    import torch

    with torch.no_grad():
        model[0].weight.fill_(1.0)


def _reshape(model: Any) -> None:
    import torch

    model[0].weight = torch.nn.Parameter(model[0].weight[:3])


@pytest.mark.parametrize("damage", [_revive, _reshape])
def test_zeros_that_a_later_pass_lost_are_an_error(tiny: Task, damage: Callable[[Any], None]) -> None:
    model = PruneWeights(0.5).apply(tiny.load_model(), tiny)
    damage(model)
    with pytest.raises(CompressionError, match=r"a later pass lost the zeros .* 0\.weight"):
        finalise(model)


def test_the_masks_are_copied_with_the_net(tiny: Task) -> None:
    model = copy.deepcopy(PruneWeights(0.5).apply(tiny.load_model(), tiny))
    before = zeros(model)
    FineTune(1, 0.1).apply(model, tiny)
    assert zeros(model) == before


@pytest.mark.parametrize("sparsity", [0.0, 1.0, -0.1, float("nan")])
def test_the_sparsity_is_checked(sparsity: float) -> None:
    with pytest.raises(ValueError, match=r"sparsity is .* it must lie between 0 and 1"):
        PruneWeights(sparsity)
