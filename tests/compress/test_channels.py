import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.compress import FineTune, PruneChannels, PruneWeights, apply_passes
from edgedeploy.compress.graph import layers_before_outputs, splits_into_groups
from edgedeploy.errors import CompressionError
from edgedeploy.examples import EXAMPLES
from edgedeploy.task import Task, load_task, predict
from tests.compress.measures import accuracy, parameters, same_weights
from tests.support.nets import write_task

pytestmark = pytest.mark.builds


def task_with(folder: Path, net: str, shape: str = "4", width: str = "3") -> Task:
    """A tiny task around another net; `shape` is that of one example."""
    return load_task(
        write_task(
            folder,
            ("def model():", f"{net}\n\n\ndef model():\n    return Net()\n\n\ndef unused():"),
            ("np.ones((1, 4)", f"np.ones((1, {shape})"),
            ("size=(count, 4)", f"size=(count, {shape})"),
            ("inputs[:, :3].argmax(axis=1)", f"inputs.reshape(count, -1)[:, :{width}].argmax(axis=1)"),
        ),
        None,
    )


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_a_cnn_gets_narrower_in_multiples_and_learns_again(trained_cnn: Task, scope: Any) -> None:
    from torch import nn

    before = trained_cnn.load_model()
    model = apply_passes(trained_cnn.load_model(), [PruneChannels(0.3, round_to=8, scope=scope)], trained_cnn)
    assert parameters(model) < 0.75 * parameters(before)
    widths = [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert all(width % 8 == 0 for width in widths)
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    damaged = accuracy(model, trained_cnn)
    model = apply_passes(model, [FineTune(2, 2e-3)], trained_cnn)
    assert accuracy(model, trained_cnn) > max(damaged, 0.8)


def test_the_ratio_is_taken_from_every_inner_layer_and_from_no_output(tiny: Task) -> None:
    model = PruneChannels(0.25).apply(tiny.load_model(), tiny)
    assert model.get_parameter("0.weight").shape == (12, 4)
    assert model.get_parameter("2.weight").shape == (3, 12)


def test_the_least_important_channels_go(tiny: Task) -> None:
    import torch

    model = tiny.load_model()
    weak = [1, 5, 6, 11]
    with torch.no_grad():
        model.get_parameter("0.weight")[weak] *= 1e-6
        model.get_parameter("0.bias")[weak] = 0
        model.get_parameter("2.weight")[:, weak] *= 1e-6
    before = predict(model, tiny.test.inputs)[0]
    pruned = PruneChannels(0.25).apply(model, tiny)
    assert predict(pruned, tiny.test.inputs)[0] == pytest.approx(before, abs=1e-5)


def test_a_transformer_keeps_its_heads_apart(trained_transformer: Task) -> None:
    import torch

    full = trained_transformer.load_model()
    inputs = tuple(torch.from_numpy(array) for array in trained_transformer.example)
    groups = splits_into_groups(full, inputs)
    assert sorted(groups.values()) == [4] * 6, "query, key and value of two blocks, four heads each"
    kept = {layer: layer.get_parameter("weight").detach().clone() for layer in groups}
    model = PruneChannels(0.5, round_to=8).apply(full, trained_transformer)
    for layer, before in kept.items():
        # The same channels went from each head: what is left of one head was one head before.
        rows = layer.get_parameter("weight").detach()
        assert len(rows) % 4 == 0
        columns = next(c for c in _column_choices(before, rows))
        origin = [int(torch.nonzero((before[:, columns] == row).all(dim=1))[0, 0]) // 16 for row in rows]
        assert origin == [head for head in range(4) for _ in range(len(rows) // 4)]
    apply_passes(model, [FineTune(3, 2e-3)], trained_transformer)
    assert accuracy(model, trained_transformer) > 0.8


def _column_choices(before: Any, rows: Any) -> Any:
    """The input channels that were kept, told by the values of the first row that is left."""
    import torch

    for origin in before:
        places = [torch.nonzero(origin == value).flatten().tolist() for value in rows[0]]
        if all(len(place) == 1 for place in places):
            yield [place[0] for place in places]


def test_a_gru_is_refused_and_left_whole(trained_gru: Task) -> None:
    model = trained_gru.load_model()
    whole = copy.deepcopy(model)
    with pytest.raises(CompressionError, match="nothing was pruned: the channels of GRU are coupled"):
        apply_passes(model, [PruneChannels(0.5)], trained_gru)
    assert same_weights(model, whole)


def test_a_rounding_that_leaves_nothing_to_prune_is_refused(tiny: Task) -> None:
    with pytest.raises(CompressionError, match="keep a multiple of 32; lower round_to"):
        apply_passes(tiny.load_model(), [PruneChannels(0.25, round_to=32)], tiny)


def test_a_net_with_nothing_inside_is_refused(tmp_path: Path) -> None:
    task = task_with(tmp_path, "Net = lambda: nn.Linear(4, 3)")
    with pytest.raises(CompressionError, match="nothing was pruned"):
        apply_passes(task.load_model(), [PruneChannels(0.5)], task)


def test_constants_in_the_forward_pass_are_reported(tmp_path: Path) -> None:
    net = """class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)
    def forward(self, x):
        return self.b(self.a(x).reshape(-1, 8))
"""
    task = task_with(tmp_path, net)
    with pytest.raises(
        CompressionError, match=r"prune-channels: the forward pass no longer runs .* take sizes in forward"
    ):
        apply_passes(task.load_model(), [PruneChannels(0.4)], task)


def test_every_output_keeps_its_width(tmp_path: Path) -> None:
    net = """class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(8, 5)
        self.skip = nn.Linear(8, 6)
    def forward(self, x):
        x = self.a(x).relu()
        return (self.b(x) + self.skip(x)).softmax(-1), self.c(x)
"""
    import torch

    task = task_with(tmp_path, net)
    model = task.load_model()
    last = layers_before_outputs(model, (torch.from_numpy(task.example[0]),))
    assert {id(layer) for layer in last} == {id(model.b), id(model.c), id(model.skip)}
    model = apply_passes(model, [PruneChannels(0.5)], task)
    assert [output.shape for output in predict(model, task.example)] == [(1, 6), (1, 5)]
    assert model.get_parameter("a.weight").shape == (4, 4)


def test_frozen_parameters_stay_frozen(tiny: Task) -> None:
    model = tiny.load_model().requires_grad_(False)
    model = PruneChannels(0.5).apply(model, tiny)
    assert parameters(model) < parameters(tiny.load_model())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_after_prune_weights_it_is_refused(tiny: Task) -> None:
    with pytest.raises(CompressionError, match="put it first"):
        apply_passes(tiny.load_model(), [PruneWeights(0.5), PruneChannels(0.5)], tiny)


def test_the_same_twice_gives_the_same(trained_cnn: Task) -> None:
    first, second = (PruneChannels(0.3).apply(trained_cnn.load_model(), trained_cnn) for _ in range(2))
    assert same_weights(first, second)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 1.0}, "ratio is 1.0; it must lie between 0 and 1"),
        ({"ratio": 0.0}, "ratio is 0.0"),
        ({"ratio": float("nan")}, "ratio is nan"),
        ({"ratio": 0.5, "round_to": 0}, "round_to is 0; it must be at least 1"),
        ({"ratio": 0.5, "importance": "l3"}, "importance is 'l3'; it must be l1 or l2"),
        ({"ratio": 0.5, "scope": "all"}, "scope is 'all'; it must be uniform or global"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PruneChannels(**settings)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PruneChannels(0.5).ratio = 0.6  # type: ignore[misc]


def test_the_examples_can_be_pruned_where_their_plans_say_so() -> None:
    for name in ("digits-cnn", "digits-transformer", "blank"):
        task = load_task(EXAMPLES[name].folder / "task.py", None)
        model = apply_passes(task.load_model(), [PruneChannels(0.3, round_to=8)], task)
        assert parameters(model) < parameters(task.load_model())
