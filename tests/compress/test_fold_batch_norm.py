from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgedeploy import export
from edgedeploy.compress import FineTune, FoldBatchNorm, PruneWeights, apply_passes
from edgedeploy.compress.held import hold, masks_of, share
from edgedeploy.errors import CompressionError
from edgedeploy.records import Format, Pass, Precision, Target
from edgedeploy.task import Task, predict
from tests.compress.measures import few, same_weights
from tests.export.nets import make_task

pytestmark = pytest.mark.builds


def lived(net: nn.Module) -> nn.Module:
    """The net with batch norms that have seen data, and scales of either sign."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for one in (module.weight, module.bias, module.running_mean):
                if one is not None:
                    one.data.normal_(generator=generator)
            if module.running_var is not None:
                module.running_var.uniform_(0.2, 3.0, generator=generator)
    return net.eval()


def task_for(net: nn.Module, *shape: int) -> Task:
    inputs = np.random.default_rng(0).normal(size=(40, *shape)).astype(np.float32)
    return make_task(lambda: net, (inputs,))


def norms(net: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules())


class Tapped(nn.Module):
    """What the layer gives goes on beside the norm: in one of several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.layer = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.other = nn.Linear(4, 4)
        if how == "tied":
            self.other.weight = self.layer.weight

    def forward(self, x: torch.Tensor) -> Any:
        y = self.layer(x)
        z = self.norm(y)
        match self.how:
            case "added":
                return z + y
            case "listed":
                return torch.cat([z, y])[: len(x)]
            case "given out":
                return z, y
            case "layer twice":
                return self.layer(z)
            case "norm twice":
                return self.norm(z)
            case "tied":
                return self.other(z)
            case "weights taken":
                return z @ self.layer.weight
            case "size alone":
                return z * y.shape[1] / y.size(1) + y.dim() - 2
        raise AssertionError


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ((nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3)), (3, 8, 8)),
        ((nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4)), (4, 6, 6)),
        ((nn.Conv1d(3, 5, 2), nn.Identity(), nn.BatchNorm1d(5, affine=False)), (3, 9)),
        ((nn.ConvTranspose2d(3, 5, 2), nn.BatchNorm2d(5)), (3, 4, 4)),
        ((nn.Linear(4, 7, bias=False), nn.BatchNorm1d(7, eps=0.1), nn.Tanh(), nn.Linear(7, 2)), (4,)),
        ((nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3)), (2, 3, 3, 3)),
    ],
)
def test_the_net_computes_the_same_without_its_norms(layers: tuple[nn.Module, ...], shape: tuple[int, ...]) -> None:
    net = lived(nn.Sequential(*layers))
    task = task_for(net, *shape)
    before = predict(net, task.test.inputs)[0]
    assert norms(net) == 1
    folded = apply_passes(net, [FoldBatchNorm()], task)
    assert norms(folded) == 0
    assert predict(folded, task.test.inputs)[0] == pytest.approx(before, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("how", ["added", "listed", "given out", "layer twice", "norm twice", "tied", "weights taken"])
def test_a_norm_that_is_not_alone_is_left(how: str) -> None:
    net = lived(Tapped(how))
    with pytest.raises(CompressionError, match="fold-batch-norm: there is nothing to fold: the net has no batch norm"):
        FoldBatchNorm().apply(net, task_for(net, 4))
    assert norms(net) == 1


def test_asking_for_its_size_is_no_use_of_a_tensor() -> None:
    net = lived(Tapped("size alone"))
    assert norms(apply_passes(net, [FoldBatchNorm()], task_for(net, 4))) == 0


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ((nn.Linear(4, 5), nn.BatchNorm1d(6)), (6, 4)),
        ((nn.Linear(4, 6), nn.BatchNorm1d(6)), (6, 4)),
        ((nn.ConvTranspose1d(4, 6, 2, groups=2), nn.BatchNorm1d(6)), (4, 5)),
        ((nn.Conv1d(4, 6, 2), nn.BatchNorm1d(6, track_running_stats=False)), (4, 5)),
        ((nn.Linear(4, 6), nn.ReLU(), nn.BatchNorm1d(6)), (4,)),
        ((nn.Linear(4, 6), nn.LayerNorm(6)), (4,)),
    ],
)
def test_a_norm_over_something_else_is_left(layers: tuple[nn.Module, ...], shape: tuple[int, ...]) -> None:
    net = lived(nn.Sequential(*layers))
    with pytest.raises(CompressionError, match="there is nothing to fold"):
        FoldBatchNorm().apply(net, task_for(net, *shape))


def test_a_norm_of_two_names_goes_from_both() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    net.register_module("alias", net[1])
    net.forward = lambda x: net[1](net[0](x))  # type: ignore[method-assign]
    assert norms(FoldBatchNorm().apply(lived(net), task_for(net, 4))) == 0


@pytest.mark.parametrize("name", ["trained_gru", "trained_transformer"])
def test_nets_without_batch_norm_are_told(name: str, request: pytest.FixtureRequest) -> None:
    task: Task = request.getfixturevalue(name)
    with pytest.raises(CompressionError, match="there is nothing to fold"):
        apply_passes(task.load_model(), [FoldBatchNorm()], task)


def test_held_zeros_outlive_folding_and_what_follows(trained_cnn: Task) -> None:
    task = few(trained_cnn)
    passes: list[Pass] = [PruneWeights(0.6), FoldBatchNorm(), FineTune(1)]
    masks = dict(masks_of(PruneWeights(0.6).apply(task.load_model(), task)))
    folded, again = (apply_passes(task.load_model(), passes, task) for _ in range(2))
    assert norms(folded) == 0
    for name, mask in masks.items():
        weight = folded.get_parameter(name).detach()
        assert not weight[~mask].any()
        assert not torch.signbit(weight[~mask]).any()
    assert same_weights(folded, again)


def test_shared_weights_must_come_later() -> None:
    net = lived(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)))
    share(net, {"0.weight": torch.zeros(6, 4, dtype=torch.int64)})
    with pytest.raises(CompressionError, match=r"each channel of 0.weight would get a scale .* put this pass before"):
        FoldBatchNorm().apply(net, task_for(net, 4))


def test_frozen_layers_stay_frozen() -> None:
    net = lived(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)))
    net[0].requires_grad_(False)  # type: ignore[index]
    FoldBatchNorm().apply(net, task_for(net, 4))
    assert [p.requires_grad for p in net.parameters()] == [False, False, True, True]


def test_a_fold_that_changes_what_is_computed_is_noticed() -> None:
    class Fickle(nn.Module):
        """Takes another way for some inputs than for the example."""

        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Linear(4, 3), nn.BatchNorm1d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layer(x)
            z: torch.Tensor = self.norm(y) if len(x) == 1 else y + 1.0
            return z

    net = lived(Fickle())
    with pytest.raises(CompressionError, match=r"the outputs moved by .*, so folding did not keep what the net"):
        FoldBatchNorm().apply(net, task_for(net, 4))


def test_the_folded_net_exports(tmp_path: Path) -> None:
    net = lived(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3)))
    task = task_for(net, 3, 8, 8)
    target = Target(Format.ONNX, Precision.FP32)
    folded = apply_passes(net, [FoldBatchNorm()], task)
    export.check_parity(export.export(folded, target, task, tmp_path), target, task)


def test_a_bias_that_was_held_carries_the_norms_shift() -> None:
    net = lived(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)))
    hold(net, {"0.bias": torch.zeros(6, dtype=torch.bool), "1.bias": torch.ones(6, dtype=torch.bool)})
    assert norms(apply_passes(net, [FoldBatchNorm()], task_for(net, 4))) == 0
