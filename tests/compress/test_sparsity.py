import re
from typing import Any

import pytest

from edgedeploy.compress import FineTune, PruneWeights, Sparsify, apply_passes
from edgedeploy.compress.hard_concrete import Gates
from edgedeploy.compress.held import masks_of
from edgedeploy.compress.weights import output_groups, weights
from edgedeploy.errors import CompressionError
from edgedeploy.records import Pass
from edgedeploy.task import Task
from tests.compress.measures import accuracy, same_weights
from tests.export.nets import Cnn, Gru, Transformer, digits_task

pytestmark = pytest.mark.builds
STRENGTHS: dict[Any, dict[str, float]] = {
    Cnn: {"l1": 0.01, "group-lasso": 0.015, "l0": 1.0},
    Gru: {"l1": 5e-4, "group-lasso": 1e-3, "l0": 1.0},
    Transformer: {"l1": 2e-4, "group-lasso": 3e-4, "l0": 1.0},
}
PENALTIES = ("l1", "group-lasso", "l0")
TINY = {"l1": 0.02, "group-lasso": 0.02, "l0": 3.0}


def zeros(model: Any) -> int:
    return sum(int((weight == 0).sum()) for _, weight, _ in weights(model))


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("family", [Cnn, Gru, Transformer])
def test_weights_become_zero_and_the_net_still_reads(family: Any, penalty: Any) -> None:
    task = digits_task(family)
    step = Sparsify(10, 1e-2, batch_size=32, penalty=penalty, strength=STRENGTHS[family][penalty])
    model = step.apply(task.load_model(), task)
    before = zeros(model)
    assert before > 0.002 * sum(weight.numel() for _, weight, _ in weights(model))
    assert accuracy(model, task) > 0.4
    FineTune(1, 1e-2).apply(model, task)
    assert zeros(model) == before, "the zeros are held"


def test_soft_thresholding_is_the_proximal_operator_of_the_magnitudes(tiny: Task) -> None:
    """One step: the net of a plain step, each weight then moved towards zero by learning rate times strength."""
    import torch

    settings: dict[str, Any] = {"optimiser": "sgd", "schedule": "constant", "seed": 3}
    plain: Any = tiny.load_model()
    shrunk: Any = tiny.load_model()
    FineTune(1, 0.02, **settings).apply(plain, tiny)
    Sparsify(1, 0.02, strength=2.5, **settings).apply(shrunk, tiny)
    for (name, one), other in zip(plain.named_parameters(), shrunk.parameters(), strict=True):
        expected = one.sign() * (one.abs() - 0.05).clamp(min=0.0) if one.ndim > 1 else one
        assert torch.allclose(other, expected, atol=1e-7), name


def test_group_lasso_is_the_proximal_operator_of_the_norms(tiny: Task) -> None:
    import torch

    settings: dict[str, Any] = {"optimiser": "sgd", "schedule": "constant", "seed": 3}
    plain: Any = FineTune(1, 0.02, **settings).apply(tiny.load_model(), tiny)
    step = Sparsify(1, 0.02, penalty="group-lasso", strength=15.0, only=("0",), **settings)
    shrunk: Any = step.apply(tiny.load_model(), tiny)
    rows = torch.cat([plain[0].weight, plain[0].bias[:, None]], 1).detach()
    limit = 15.0 * 0.02 * 5**0.5
    expected = torch.stack([row * max(1 - limit / float(row.double().norm()), 0.0) for row in rows])
    found = torch.cat([shrunk[0].weight, shrunk[0].bias[:, None]], 1)
    assert torch.allclose(found, expected, atol=1e-6)
    assert 0 < int((found == 0).all(1).sum()) < 16
    assert same_weights(shrunk[2], plain[2])


def test_the_learning_rate_of_the_schedule_counts(tiny: Task) -> None:
    """A frozen layer is moved by the shrinking alone: in two steps of a cosine by all of it, then by half."""
    import torch

    model: Any = tiny.load_model()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].weight[0, 0] = -0.1
    model[0].weight.requires_grad_(False)
    Sparsify(2, 0.1, strength=1.0, only=("0",)).apply(model, tiny)
    assert model[0].weight[0, 0] == 0
    assert torch.allclose(model[0].weight.flatten()[1:], torch.tensor(1.0 - 0.1 - 0.05))


def test_an_adaptive_optimiser_shrinks_by_its_own_measure(tiny: Task) -> None:
    """After one step of Adam the root of the mean square is the gradient's own magnitude."""
    import torch

    settings: dict[str, Any] = {"schedule": "constant", "weight_decay": 0.0, "seed": 3}
    fresh: Any = tiny.load_model()
    inputs, targets = torch.from_numpy(tiny.train.inputs[0]), torch.from_numpy(tiny.train.targets)
    torch.nn.functional.cross_entropy(fresh(inputs), targets).backward()  # type: ignore[no-untyped-call]
    plain: Any = FineTune(1, 0.01, **settings).apply(tiny.load_model(), tiny)
    shrunk: Any = Sparsify(1, 0.01, strength=0.05, **settings).apply(tiny.load_model(), tiny)
    for layer in (0, 2):
        by = 0.05 * 0.01 / (fresh[layer].weight.grad.abs() + 1e-8)
        one = plain[layer].weight
        assert torch.allclose(shrunk[layer].weight, one.sign() * (one.abs() - by).clamp(min=0.0), atol=1e-4)


def test_the_outputs_of_each_layer_are_grouped_with_their_biases() -> None:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(2, 6, 3)
            self.lstm = nn.LSTM(6, 5, 2, bidirectional=True, proj_size=3)
            self.cell = nn.GRUCell(4, 7)
            self.attention = nn.MultiheadAttention(8, 2)

    net = Net()
    names = [name for name, _, _ in weights(net)]
    groups = output_groups(net, names)
    assert sorted(part.name for group in groups for part in group) == sorted(name for name, _ in net.named_parameters())
    found = {group[0].name: group for group in groups}
    assert [part.name for part in found["cell.weight_ih"]] == [
        "cell.weight_ih",
        "cell.bias_ih",
        "cell.weight_hh",
        "cell.bias_hh",
    ]
    assert {part.gates for part in found["lstm.weight_ih_l1_reverse"]} == {4}
    for group in groups:
        part = group[0]
        values = net.get_parameter(part.name).detach().clone()
        squares = part.squares(values)
        part.scale_(values, torch.where(torch.arange(len(squares)) == 1, 0.0, 2.0))
        assert torch.allclose(part.squares(values), 4 * squares * (torch.arange(len(squares)) != 1))
    one = net.up.weight[:, 4].square().sum()
    assert torch.allclose(found["up.weight"][0].squares(net.up.weight)[4], one)
    unit = sum(net.cell.weight_ih[gate * 7 + 2].square().sum() for gate in range(3))
    assert torch.allclose(found["cell.weight_ih"][0].squares(net.cell.weight_ih)[2], torch.as_tensor(unit))


@pytest.mark.parametrize("family", [Cnn, Gru])
def test_channels_vanish_whole(family: Any) -> None:
    """What is left computes the same without the channels that are gone: a hidden unit of a GRU stays at zero."""
    import torch

    task = digits_task(family)
    strength = STRENGTHS[family]["group-lasso"]
    step = Sparsify(10, 1e-2, batch_size=32, penalty="group-lasso", strength=strength)
    model = step.apply(task.load_model(), task)
    dead = {}
    for name, weight, _ in weights(model):
        rows = (weight.detach() == 0).flatten(1)
        assert torch.equal(rows.any(1), rows.all(1)), name
        dead[name] = rows.all(1)
    if family is Gru:
        gates = dead["gru.weight_hh_l0"].view(3, -1)
        assert torch.equal(gates[0], gates[2])
        assert gates.any()
        states, _ = model.get_submodule("gru")(torch.from_numpy(task.test.inputs[0]))
        assert not states[..., gates[0]].any()
    else:
        assert any(rows.any() for rows in dead.values())
    FineTune(1, 1e-2).apply(model, task)
    for name, weight, _ in weights(model):
        assert not weight[dead[name]].any()
    head = dead["head.weight"]
    assert not model.get_parameter("head.bias")[head].any()


def test_the_gates_have_the_gradients_of_the_loss_and_of_the_expected_count(tiny: Task) -> None:
    """Beside the same draw put through autograd, the penalty by the formula of the paper."""
    import math

    import torch

    model: Any = tiny.load_model().train()
    gates = Gates(model, ["0.weight"], seed=5)
    inputs, targets = torch.from_numpy(tiny.train.inputs[0]), torch.from_numpy(tiny.train.targets)
    before = model[0].weight.detach().clone()
    with gates.around_pass(0.7):
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
    assert torch.equal(model[0].weight, before)

    weight: Any = before.clone().requires_grad_()
    theta: Any = gates.parameters["0.weight"].detach().clone().requires_grad_()
    log_alpha = 50 * theta
    uniform = torch.rand(64, generator=torch.Generator().manual_seed(5)).clamp(1e-6, 1 - 1e-6)
    noisy = torch.sigmoid((uniform.log() - (1 - uniform).log() + log_alpha) / (2 / 3))
    gate = (noisy * 1.2 - 0.1).clamp(0, 1).view(16, 4)
    hidden = torch.relu(inputs @ (weight * gate).T + model[0].bias)
    loss = torch.nn.functional.cross_entropy(model[2](hidden), targets)
    loss = loss + 0.7 * torch.sigmoid(log_alpha - 2 / 3 * math.log(0.1 / 1.1)).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert model[0].weight.grad is not None
    assert torch.allclose(model[0].weight.grad, weight.grad, atol=1e-6)
    of_gates: Any = gates.parameters["0.weight"].grad
    assert torch.allclose(of_gates, theta.grad, atol=1e-6)
    assert gates.settled("0.weight").shape == (16, 4)
    assert 0.9 < float(gates.settled("0.weight").mean()) <= 1.0, "they begin open"


def test_the_weights_leave_with_their_gates(tiny: Task) -> None:
    import torch

    model: Any = tiny.load_model()
    Sparsify(30, 1e-2, batch_size=20, penalty="l0", strength=3.0, only=("0",)).apply(model, tiny)
    mask = masks_of(model)["0.weight"]
    assert torch.equal(mask, model[0].weight != 0)
    assert "2.weight" not in masks_of(model)
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize("penalty", PENALTIES)
def test_zeros_of_before_stay(tiny: Task, penalty: Any) -> None:
    once = apply_passes(tiny.load_model(), [PruneWeights(0.3)], tiny)
    step = Sparsify(20, 1e-2, batch_size=20, penalty=penalty, only=("0",), strength=TINY[penalty])
    steps: list[Pass] = [PruneWeights(0.3), step, FineTune(1)]
    model = apply_passes(tiny.load_model(), steps, tiny)
    assert zeros(model) > zeros(once)
    for (_, one, _), (_, other, _) in zip(weights(once), weights(model), strict=True):
        assert not (other[one == 0] != 0).any()


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_same_seed_gives_the_same_net(tiny: Task, penalty: Any) -> None:
    def net(seed: int) -> Any:
        step = Sparsify(20, 1e-2, batch_size=20, penalty=penalty, only=("0",), seed=seed, strength=TINY[penalty])
        return step.apply(tiny.load_model(), tiny)

    assert same_weights(net(0), net(0))
    assert not same_weights(net(0), net(1))


def test_no_hook_is_left_behind(tiny: Task) -> None:
    from torch.optim import optimizer

    hooks: Any = optimizer._global_optimizer_post_hooks
    before = dict(hooks)
    with pytest.raises(CompressionError):
        Sparsify(1, 1e-6, strength=1e-6).apply(tiny.load_model(), tiny)
    assert dict(hooks) == before


@pytest.mark.parametrize(
    ("strength", "message"),
    [
        (1e-6, "sparsify: strength 1e-06 made no weight zero; raise it, learning_rate or epochs"),
        (1e3, "sparsify: strength 1000.0 leaves no weight at all in 0.weight; lower it, or skip the layer"),
    ],
)
def test_a_strength_out_of_place_is_told(tiny: Task, strength: float, message: str) -> None:
    with pytest.raises(CompressionError, match=re.escape(message)):
        Sparsify(1, strength=strength).apply(tiny.load_model(), tiny)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"penalty": "l2"}, "penalty is 'l2'; it must be l1 or group-lasso or l0"),
        ({"strength": 0.0}, "strength is 0.0; it must be above 0"),
        ({"strength": float("inf")}, "strength is inf; it must be above 0"),
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
    ],
)
def test_the_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Sparsify(**{"epochs": 1, "strength": 0.5, **settings})
