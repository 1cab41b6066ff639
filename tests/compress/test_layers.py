import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.compress import DropLayers, FineTune, PruneWeights, apply_passes
from edgedeploy.compress.held import masks_of
from edgedeploy.errors import CompressionError, NothingToDo
from edgedeploy.task import Split, Task, predict
from tests.compress.measures import parameters, same_weights
from tests.compress.test_channels import task_with

pytestmark = pytest.mark.builds

CHAIN = """class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(8), nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
    def forward(self, x, scale=1.0):
        return x + scale * self.mlp(self.norm(x))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList([Block(), Block(), Block()])
    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x, scale=1.0)
        return self.head(x)
"""


def quietened(task: Task, *places: int) -> tuple[Any, Task]:
    """The chain's net, some of its blocks adding next to nothing, with a task of which it knows all answers."""
    import torch

    model = task.load_model()
    with torch.no_grad():
        model.get_parameter("head.weight").mul_(30)
        for place in places:
            model.get_parameter(f"blocks.{place}.mlp.2.weight").mul_(1e-5)
            model.get_parameter(f"blocks.{place}.mlp.2.bias").zero_()
    inputs = task.calibration.inputs
    answers = predict(model, inputs)[0].argmax(axis=1)
    return model, dataclasses.replace(task, calibration=Split(inputs, answers))


def loss(model: Any, task: Task) -> float:
    import torch

    split = task.calibration
    outputs = torch.from_numpy(predict(model, split.inputs)[0])
    return float(torch.nn.functional.cross_entropy(outputs, torch.from_numpy(split.targets)))


def test_the_blocks_that_add_least_go(tmp_path: Path) -> None:
    full, task = quietened(task_with(tmp_path, CHAIN), 0, 2)
    model = apply_passes(copy.deepcopy(full), [DropLayers(2)], task)
    assert [name for name, _ in model.named_parameters() if name.startswith("blocks")] == [
        f"blocks.1.{part}"
        for part in ("norm.weight", "norm.bias", "mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias")
    ]
    assert predict(model, task.test.inputs)[0] == pytest.approx(predict(full, task.test.inputs)[0], abs=1e-3)


def test_the_one_goes_without_which_the_loss_is_least(trained_transformer: Task) -> None:
    import torch

    losses = []
    for place in range(2):
        without = trained_transformer.load_model()
        with torch.no_grad():
            for part in ("attention.out", "mlp.2"):  # with these at zero the block gives what it takes
                for parameter in without.get_submodule(f"blocks.{place}.{part}").parameters():
                    parameter.zero_()
        losses.append((loss(without, trained_transformer), place, without))
    least, place, without = min(losses, key=lambda one: one[0])
    model = DropLayers(1).apply(trained_transformer.load_model(), trained_transformer)
    assert not list(model.get_submodule(f"blocks.{place}").parameters())
    assert loss(model, trained_transformer) == pytest.approx(least, rel=1e-5)
    expected = predict(without, trained_transformer.test.inputs)[0]
    assert predict(model, trained_transformer.test.inputs)[0] == pytest.approx(expected, abs=1e-5)
    assert same_weights(model, DropLayers(1).apply(trained_transformer.load_model(), trained_transformer))


def test_a_torch_encoder_gets_shorter_and_its_masks_move_up() -> None:
    import torch

    from tests.export.nets import Transformer, digits_task

    task = digits_task(Transformer)
    full: Any = task.load_model()
    with torch.no_grad():
        for parameter in full.encoder.layers[1].parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model = PruneWeights(0.5).apply(copy.deepcopy(full), task)
    zeros = model.get_parameter("encoder.layers.1.linear1.weight") == 0
    model = DropLayers(only=("encoder.layers.0",)).apply(model, task)
    assert len(model.get_submodule("encoder.layers")) == model.get_submodule("encoder").num_layers == 1  # type: ignore[arg-type]
    assert torch.equal(model.get_parameter("encoder.layers.0.linear1.weight") == 0, zeros)
    assert torch.equal(~masks_of(model)["encoder.layers.0.linear1.weight"], zeros)
    assert not any("layers.1" in name for name in masks_of(model))
    model = apply_passes(model, [FineTune(1)], task)
    assert (model.get_parameter("encoder.layers.0.linear1.weight")[zeros] == 0).all()
    with pytest.raises(CompressionError, match=r"2 layers cannot go, only 1 \(encoder.layers.[01]\); lower count"):
        apply_passes(task.load_model(), [DropLayers(2)], task)


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
def test_a_recurrent_layer_ends_one_earlier(tmp_path: Path, kind: str) -> None:
    import torch

    net = f"""class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows = nn.{kind}(1, 6, num_layers=3, batch_first=True, bidirectional=True, dropout=0.1)
        self.head = nn.Linear(12, 3)
    def forward(self, x):
        return self.head(self.rows(x[..., None])[0][:, -1])
"""
    task = task_with(tmp_path, net)
    full: Any = task.load_model()
    model = apply_passes(copy.deepcopy(full), [DropLayers(2)], task)
    shorter = getattr(torch.nn, kind)(1, 6, batch_first=True, bidirectional=True)
    shorter.load_state_dict({name: full.rows.state_dict()[name] for name in shorter.state_dict()})
    rows = torch.from_numpy(task.test.inputs[0])[..., None]
    expected = full.head(shorter(rows)[0][:, -1]).detach().numpy()
    assert predict(model, task.test.inputs)[0] == pytest.approx(expected, abs=1e-6)
    apply_passes(model, [FineTune(1)], task)
    with pytest.raises(CompressionError, match=r"3 layers cannot go, only 2 \(rows, rows\)"):
        apply_passes(task.load_model(), [DropLayers(3)], task)


def test_named_layers_go_all_of_them(tmp_path: Path) -> None:
    task = task_with(tmp_path, CHAIN)
    model = apply_passes(task.load_model(), [DropLayers(only=("blocks.1", "blocks.2.mlp"))], task)
    assert not list(model.get_submodule("blocks.1").parameters())
    assert [name for name, _ in model.get_submodule("blocks.2").named_parameters()] == ["norm.weight", "norm.bias"]
    assert parameters(model.get_submodule("blocks.0")) > 0
    full, known = quietened(task, 0)
    model = apply_passes(full, [DropLayers(1, only=("blocks.0", "blocks.1"))], known)
    assert [bool(parameters(model.get_submodule(f"blocks.{place}"))) for place in range(3)] == [False, True, True]
    with pytest.raises(CompressionError, match="drop-layers: only names 'block', but nothing is called so; these are"):
        apply_passes(task.load_model(), [DropLayers(only=("block",))], task)


NESTED = CHAIN.replace("class Net(", "class Inner(").replace("nn.Linear(8, 3)", "nn.Linear(8, 4)")


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (CHAIN, ["blocks.0", "blocks.1", "blocks.2"]),
        # A stack of blocks is no block, though it gives the shape that it takes.
        (
            NESTED + "\n\ndef Net():\n    return nn.Sequential(Inner(), nn.Linear(4, 3))",
            ["0.blocks.0", "0.blocks.1", "0.blocks.2"],
        ),
        ("Net = lambda: nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3))", ["1"]),
    ],
)
def test_blocks_are_told_from_their_parts_and_from_stacks(tmp_path: Path, net: str, expected: list[str]) -> None:
    from edgedeploy.compress.layers import _fitting, _layers

    task = task_with(tmp_path, net)
    model = task.load_model()
    assert _layers(model, _fitting(model, task)) == expected


def test_a_net_where_every_layer_changes_the_width_is_refused(tiny: Task) -> None:
    for settings in ({"count": 1}, {"only": ("0",)}):
        with pytest.raises(NothingToDo, match=r"drop-layers: no layer can be left out, .*; make the layers narrower"):
            apply_passes(tiny.load_model(), [DropLayers(**settings)], tiny)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "count is missing; say how many layers go, or name them in only"),
        ({"count": 0}, "count is 0; it must be at"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DropLayers(**settings)
