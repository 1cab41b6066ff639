from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgedeploy.compress import FineTune, FoldBatchNorm, PruneWeights, ReorderChannels, ShareWeights, apply_passes
from edgedeploy.compress.held import masks_of, shared_of
from edgedeploy.compress.permutable import permutable
from edgedeploy.compress.reorder_channels import classes_of, coded_bits
from edgedeploy.compress.weights import weights
from edgedeploy.errors import CompressionError
from edgedeploy.records import Pass
from edgedeploy.task import Task, predict
from tests.compress.measures import same_weights

if TYPE_CHECKING:
    import torch
    from torch import nn

pytestmark = pytest.mark.builds


def bits(model: nn.Module) -> float:
    return sum(coded_bits(classes_of(weight.detach()).flatten(1)) for _, weight, _ in weights(model))


def task_of(model: nn.Module, *shape: int) -> Task:
    """A task of this net, as it is, on random inputs."""
    from tests.export.nets import make_task

    inputs = np.random.default_rng(0).normal(size=(160, *shape)).astype(np.float32)
    return make_task(lambda: copy.deepcopy(model), (inputs,))


def nets() -> dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[str]]]:
    """What may be found in a net: the net, the shape of an example, the layers whose outputs change places."""
    import torch
    from torch import nn

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.inner = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8 * 16, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found = torch.relu(self.stem(images))
            result: torch.Tensor = self.head((found + self.norm(self.inner(found))).flatten(1))
            return result

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.head = nn.Linear(6, 7), nn.Linear(6, 5), nn.Linear(12, 3)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.head(torch.cat([self.left(rows).relu(), self.right(rows).tanh()], 1))
            return result

    class Recurrent(nn.Module):
        def __init__(self, kind: Any, **settings: Any) -> None:
            super().__init__()
            self.inner = kind(5, 6, batch_first=True, **settings)
            self.norm, self.head = nn.Linear(4, 12), nn.Linear(12 if self.inner.bidirectional else 6, 3)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.head(self.inner(rows)[0][:, -1])
            return result

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
            self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.head(self.layer(self.embed(rows)).mean(1))
            return result

    depthwise = [nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.PReLU(8), nn.Conv2d(8, 4, 1), nn.Flatten()]
    grouped = [nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=2), nn.Flatten(), nn.Linear(32, 6), nn.Linear(6, 2)]
    transposed = [nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 6, 2), nn.InstanceNorm2d(6, affine=True), nn.Flatten()]
    return {
        "residual": (Residual, (3, 4, 4), ["stem", "inner"]),
        "branches": (Branches, (6,), ["left", "right"]),
        "gru": (lambda: Recurrent(nn.GRU), (4, 5), ["inner"]),
        "lstm": (lambda: Recurrent(nn.LSTM, num_layers=2), (4, 5), ["inner"]),
        "rnn": (lambda: Recurrent(nn.RNN, bidirectional=True, bias=False), (4, 5), ["inner"]),
        "encoder": (Encoder, (4, 5), ["embed", "layer"]),
        "depthwise": (lambda: nn.Sequential(*depthwise, nn.Linear(16, 3)), (3, 4, 4), ["0", "1", "3"]),
        "grouped": (lambda: nn.Sequential(*grouped), (3, 4, 4), ["3"]),
        "transposed": (lambda: nn.Sequential(*transposed, nn.Linear(6 * 25, 3)), (3, 4, 4), ["0", "1"]),
    }


NETS = ["residual", "branches", "gru", "lstm", "rnn", "encoder", "depthwise", "grouped", "transposed"]


@pytest.mark.parametrize("name", NETS)
def test_what_can_change_places_does_and_the_function_stays(name: str) -> None:
    import torch

    make, shape, layers = nets()[name]
    torch.manual_seed(0)
    before = make().eval()
    for module in before.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean.normal_()
    task = task_of(before, *shape)
    model = copy.deepcopy(before)
    groups = permutable("test", model, (torch.from_numpy(task.train.inputs[0][:8]),))
    assert same_weights(model, before), "trying a group must leave nothing behind"
    for group in groups:
        group.permute(torch.randperm(group.channels) if group.blocks == 1 else torch.arange(group.channels))
    moved = {
        one.rpartition(".")[0] for one, value in model.named_parameters() if not value.equal(before.get_parameter(one))
    }
    for layer in layers:
        assert any(one == layer or one.startswith(f"{layer}.") for one in moved), (layer, moved)
    np.testing.assert_allclose(
        predict(model, task.test.inputs)[0], predict(before, task.test.inputs)[0], atol=1e-5, rtol=1e-4
    )


def test_a_layer_in_two_groups_is_left_where_it_may_not_move() -> None:
    import torch

    make, shape, _ = nets()["grouped"]
    net = make().eval()
    task = task_of(net, *shape)
    assert [group.name for group in permutable("test", net, (torch.from_numpy(task.train.inputs[0][:8]),))] == ["3"]


@pytest.mark.parametrize(
    ("family", "method"),
    [("trained_cnn", "greedy"), ("trained_gru", "evolutionary"), ("trained_transformer", "greedy")],
)
def test_fewer_bits_the_same_answers_and_all_that_is_held_moves_along(
    family: str, method: Any, request: pytest.FixtureRequest
) -> None:
    task: Task = request.getfixturevalue(family)
    source = task.load_model()
    if family == "trained_cnn":
        source = FoldBatchNorm().apply(source, task)
    passes: list[Pass] = [PruneWeights(0.8), ShareWeights(8, biases=True)]
    for step in passes:
        source = step.apply(source, task)
    model = ReorderChannels(method, generations=2, population=2).apply(copy.deepcopy(source), task)
    assert bits(model) < bits(source)
    before, after = predict(source, task.test.inputs)[0], predict(model, task.test.inputs)[0]
    np.testing.assert_allclose(after, before, atol=1e-4 * np.abs(before).max())
    for held in (masks_of, shared_of):
        assert held(model).keys() == held(source).keys()
    for name, parameter in model.named_parameters():
        old = source.get_parameter(name)
        assert parameter.detach().flatten().sort()[0].equal(old.detach().flatten().sort()[0]), name
        if name in masks_of(model):
            assert masks_of(model)[name].equal(parameter.detach() != 0), name
        labels, numbers = shared_of(model)[name], shared_of(source)[name]
        assert {int(n): float(parameter.detach()[labels == n][0]) for n in set(labels.flatten().tolist()) - {-1}} == {
            int(n): float(old.detach()[numbers == n][0]) for n in set(numbers.flatten().tolist()) - {-1}
        }
    tuned = apply_passes(model, [FineTune(1, 1e-3)], task)
    assert all(
        int((one == 0).sum()) >= int((~masks_of(source)[name]).sum())
        for name, one in tuned.named_parameters()
        if name in masks_of(source)
    )


def sequential_bits(classes: np.ndarray) -> float:
    """The same coder, symbol after symbol, as a decoder would go."""
    counts = {(left, up): [0.5] * 5 for left in range(5) for up in range(5)}
    total = 0.0
    for row in range(len(classes)):
        for column in range(len(classes[0])):
            left = classes[row, column - 1] if column else 0
            up = classes[row - 1, column] if row else 0
            seen = counts[left, up]
            total -= math.log2(seen[classes[row, column]] / sum(seen))
            seen[classes[row, column]] += 1
    return total


@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (30, 4)])
def test_the_bits_are_those_of_a_coder_that_learns_as_it_goes(shape: tuple[int, int]) -> None:
    import torch

    classes = np.random.default_rng(0).integers(0, 5, size=shape)
    assert coded_bits(torch.from_numpy(classes)) == pytest.approx(sequential_bits(classes))


def test_weights_fall_into_zeros_and_small_and_large_of_either_sign() -> None:
    import torch

    found = classes_of(torch.tensor([[0.0, -0.1, -2.0], [0.2, 3.0, 0.0]]))
    assert found.tolist() == [[0, 1, 2], [3, 4, 0]]
    assert classes_of(torch.zeros(2, 2)).tolist() == [[0, 0], [0, 0]]


def striped() -> Task:
    """Four kinds of hidden units, each with zeros in other places, in a random order."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 12))
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for unit, kind in enumerate(torch.randint(4, (40,), generator=random).tolist()):
            keep = torch.arange(24) // 6 == kind
            net.get_parameter("0.weight")[unit] *= keep
            net.get_parameter("2.weight")[:, unit] *= torch.arange(12) // 3 == kind
    return task_of(net, 24)


def test_like_units_come_to_lie_side_by_side() -> None:
    task = striped()
    before = task.model()
    model = ReorderChannels().apply(task.model(), task)
    kinds = [int(row.nonzero()[0]) // 6 for row in model.get_parameter("0.weight").detach()]
    assert kinds == sorted(kinds, key=kinds.index), kinds
    assert bits(model) < 0.9 * bits(before)


def test_evolution_goes_on_from_the_greedy_order_and_never_back() -> None:
    task = striped()
    found = [
        bits(ReorderChannels("evolutionary", generations, 4).apply(task.model(), task)) for generations in (1, 20, 100)
    ]
    assert bits(ReorderChannels().apply(task.model(), task)) >= found[0] >= found[1] >= found[2]
    assert found[2] < found[0]


def test_the_same_seed_gives_the_same_order_and_another_one_another() -> None:
    task = striped()
    first, second, other = (
        ReorderChannels("evolutionary", 50, 4, seed).apply(task.model(), task) for seed in (1, 1, 2)
    )
    assert same_weights(first, second)
    assert not same_weights(first, other)


def test_heads_keep_their_channels(trained_transformer: Task) -> None:
    import torch

    model = trained_transformer.load_model()
    blocks = {
        group.name: group.blocks
        for group in permutable("test", model, (torch.from_numpy(trained_transformer.train.inputs[0][:8]),))
    }
    attention = {name: count for name, count in blocks.items() if "attention" in name}
    assert attention
    assert set(attention.values()) <= {1, 4}
    assert 4 in attention.values()


def test_what_reaches_the_output_is_left_alone() -> None:
    from torch import nn

    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.GRU(5, 6, batch_first=True)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.inner(rows)[0][:, -1]
            return result

    for net, shape in ((Features(), (4, 5)), (nn.Linear(4, 3), (4,))):
        task = task_of(net, *shape)
        with pytest.raises(CompressionError, match="reorder-channels: no channels of this net can change places"):
            ReorderChannels().apply(task.model(), task)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "random"}, "method is 'random'; it must be greedy or evolutionary"),
        ({"generations": 0}, "generations is 0; it must be at least 1"),
        ({"population": 0}, "population is 0; it must be at least 1"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReorderChannels(**settings)


def test_a_re_ordered_net_exports(trained_gru: Task, tmp_path: Path) -> None:
    from edgedeploy import export
    from edgedeploy.records import Format, Precision, Target

    model = apply_passes(trained_gru.load_model(), [PruneWeights(0.5), ReorderChannels()], trained_gru)
    target = Target(Format.ONNX, Precision.FP32)
    export.check_parity(export.export(model, target, trained_gru, tmp_path), target, trained_gru)
