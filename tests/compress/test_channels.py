import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.compress import FineTune, PruneChannels, PruneWeights, apply_passes
from edgedeploy.compress.graph import layers_of_fixed_width, splits_into_groups
from edgedeploy.compress.held import masks_of, share, shared_of
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
    last = layers_of_fixed_width(model, (torch.from_numpy(task.example[0]),))
    assert {id(layer) for layer in last} == {id(model.b), id(model.c), id(model.skip)}
    model = apply_passes(model, [PruneChannels(0.5)], task)
    assert [output.shape for output in predict(model, task.example)] == [(1, 6), (1, 5)]
    assert model.get_parameter("a.weight").shape == (4, 4)


def test_weights_that_share_a_value_still_share_it(tiny: Task) -> None:
    import torch

    model = tiny.load_model()
    share(model, {"0.weight": torch.arange(64).view(16, 4) % 5, "2.weight": torch.arange(48).view(3, 16) % 3})
    model = PruneChannels(0.5).apply(model, tiny)
    assert set(shared_of(model)) == {"0.weight", "2.weight"}
    model = apply_passes(model, [FineTune(2)], tiny)
    assert len(torch.unique(model.get_parameter("0.weight"))) <= 5
    assert len(torch.unique(model.get_parameter("2.weight"))) <= 3


def test_a_whole_transformer_gets_narrower(tmp_path: Path) -> None:
    net = """class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(1, 16), nn.Linear(16, 3)
        self.inner = nn.Transformer(16, 4, 1, 1, 32, batch_first=True)
    def forward(self, x):
        rows = self.embed(x[..., None])
        return self.head(self.inner(rows, rows[:, :2]).mean(1))
"""
    task = task_with(tmp_path, net)
    model: Any = apply_passes(task.load_model(), [PruneChannels(0.5)], task)
    assert model.inner.d_model == model.embed.out_features == 8
    assert model.inner.decoder.layers[0].multihead_attn.query.out_features == 8


def test_attention_that_cannot_be_spelled_out_keeps_its_width(tmp_path: Path) -> None:
    net = """class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(1, 16), nn.Linear(16, 3)
        self.attention = nn.MultiheadAttention(16, 4, add_bias_kv=True, batch_first=True)
        self.wide, self.narrow = nn.Linear(16, 32), nn.Linear(32, 16)
    def forward(self, x):
        x = self.embed(x[..., None])
        x = x + self.attention(x, x, x)[0]
        return self.head((x + self.narrow(self.wide(x).relu())).mean(1))
"""
    task = task_with(tmp_path, net)
    model: Any = apply_passes(task.load_model(), [PruneChannels(0.5)], task)
    assert (model.embed.out_features, model.wide.out_features) == (16, 16)


def test_frozen_parameters_stay_frozen(tiny: Task) -> None:
    model = tiny.load_model().requires_grad_(False)
    model = PruneChannels(0.5).apply(model, tiny)
    assert parameters(model) < parameters(tiny.load_model())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_zeros_of_what_stays_stay(tiny: Task) -> None:
    model = PruneWeights(0.5).apply(tiny.load_model(), tiny)
    model = PruneChannels(0.5).apply(model, tiny)
    zeros = {name: model.get_parameter(name) == 0 for name in ("0.weight", "2.weight")}
    assert all(zero.any() for zero in zeros.values())
    assert all((masks_of(model)[name] != zero).all() for name, zero in zeros.items())
    model = apply_passes(model, [FineTune(2)], tiny)
    assert all((model.get_parameter(name)[zero] == 0).all() for name, zero in zeros.items())


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
        ({"ratio": 0.5, "importance": "l3"}, "importance is 'l3'; it must be l1 or l2 or gradient or random"),
        ({"ratio": 0.5, "seed": -1}, "seed is -1; it must be 0 or above"),
        ({"ratio": 0.5, "scope": "all"}, "scope is 'all'; it must be uniform or global"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PruneChannels(**settings)


def test_what_remains_computes_what_the_masked_net_did(tmp_path: Path) -> None:
    import torch
    from torch import nn

    from tests.export.nets import Cnn, digits_task

    task = digits_task(Cnn)
    full = task.load_model()
    with torch.no_grad():
        for layer in full.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.normal_()  # distinct, so that it names its channel
                layer.bias.normal_()
                layer.running_mean.normal_()  # type: ignore[union-attr]
    pruned = PruneChannels(0.4, importance="l1").apply(copy.deepcopy(full), task)
    for name, layer in full.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            gone = ~torch.isin(layer.weight, pruned.get_submodule(name).get_parameter("weight"))
            assert int(gone.sum()) == len(gone) - int(len(gone) * 0.6)
            with torch.no_grad():
                layer.weight[gone] = 0
                layer.bias[gone] = 0
    assert predict(pruned, task.example)[0] == pytest.approx(predict(full, task.example)[0], abs=1e-5)


def test_width_inside_the_heads_of_packed_attention_goes_from_each_head_alike(tmp_path: Path) -> None:
    import torch

    from tests.export.nets import Transformer, digits_task

    task = digits_task(Transformer)
    full = task.load_model()
    pruned = apply_passes(copy.deepcopy(full), [PruneChannels(0.5, only=("*.query", "*.key", "*.value"))], task)
    for block in ("encoder.layers.0.self_attn", "encoder.layers.1.self_attn"):
        packed = full.get_parameter(f"{block}.in_proj_weight")
        for place, part in enumerate(("query", "key", "value")):
            left = pruned.get_parameter(f"{block}.{part}.weight")
            rows = packed[32 * place : 32 * place + 32]
            stays = (rows[:, None] == left[None]).all(-1).any(1)
            assert stays.view(4, 8).sum(1).tolist() == [4, 4, 4, 4]
            with torch.no_grad():
                rows[~stays] = 0
                full.get_parameter(f"{block}.in_proj_bias")[32 * place : 32 * place + 32][~stays] = 0
    assert predict(pruned, task.example)[0] == pytest.approx(predict(full, task.example)[0], abs=1e-5)


def test_feed_forward_width_alone_leaves_attention_packed(tmp_path: Path) -> None:
    from torch import nn

    from tests.export.nets import Transformer, digits_task

    task = digits_task(Transformer)
    model = apply_passes(task.load_model(), [PruneChannels(0.5, only=("encoder.layers.*.linear1",))], task)
    assert model.get_parameter("encoder.layers.1.linear1.weight").shape == (32, 32)
    assert isinstance(model.get_submodule("encoder.layers.0.self_attn"), nn.MultiheadAttention)
    assert model.get_parameter("position").shape == (1, 8, 32)


def test_skipped_layers_keep_their_width(trained_cnn: Task) -> None:
    from torch import nn

    before = trained_cnn.load_model()
    layers = {n: m.out_channels for n, m in before.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1}
    first = next(iter(layers))
    model = PruneChannels(0.5, skip=(first,)).apply(before, trained_cnn)
    assert model.get_submodule(first).out_channels == layers[first]
    for name in list(layers)[1:]:
        assert model.get_submodule(name).out_channels == layers[name] // 2


def test_a_layer_that_is_not_there_is_told(tiny: Task) -> None:
    with pytest.raises(CompressionError, match=r"prune-channels: only names 'head', .* these are: 0, 2"):
        apply_passes(tiny.load_model(), [PruneChannels(0.5, only=("head",))], tiny)


def test_gradients_know_what_the_outputs_never_see(tiny: Task) -> None:
    import torch

    def left(importance: Any) -> list[int]:
        model = tiny.load_model()
        with torch.no_grad():
            model.get_parameter("0.bias").copy_(torch.arange(16) + 10.0)  # names the channel, and keeps all active
            model.get_parameter("0.weight")[:4] *= 10
            model.get_parameter("2.weight")[:, :4] = 0
        model = PruneChannels(0.25, importance=importance).apply(model, tiny)
        assert all(parameter.grad is None for parameter in model.parameters())
        return [int(value) - 10 for value in model.get_parameter("0.bias")]

    assert left("gradient") == list(range(4, 16))
    assert set(range(4)) < set(left("l2"))


def test_chance_follows_the_seed(tiny: Task) -> None:
    one, same, other = (
        PruneChannels(0.5, importance="random", seed=seed).apply(tiny.load_model(), tiny) for seed in (0, 0, 1)
    )
    assert same_weights(one, same)
    assert not same_weights(one, other)


def test_globally_no_layer_loses_its_last_block(tmp_path: Path) -> None:
    import torch

    task = task_with(tmp_path, "Net = lambda: nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 32), nn.Linear(32, 3))")
    model = task.load_model()
    with torch.no_grad():
        model.get_parameter("0.weight").zero_()
        model.get_parameter("1.weight").zero_()  # all alike: by rank some of them must stay
    model = PruneChannels(0.5, round_to=4, scope="global").apply(model, task)
    assert model.get_parameter("0.weight").shape[0] in {4, 8}
    assert 4 <= model.get_parameter("1.weight").shape[0] < 32


def test_a_layer_that_feeds_a_recurrent_one_is_left(tmp_path: Path) -> None:
    net = """class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.gru = nn.Linear(1, 8), nn.Linear(8, 6), nn.GRU(6, 5, batch_first=True)
        self.c, self.d = nn.Linear(5, 8), nn.Linear(8, 3)
    def forward(self, x):
        return self.d(self.c(self.gru(self.b(self.a(x[..., None])))[0][:, -1]))
"""
    task = task_with(tmp_path, net)
    model = apply_passes(task.load_model(), [PruneChannels(0.5)], task)
    assert [model.get_parameter(f"{name}.weight").shape[0] for name in "abcd"] == [4, 6, 4, 3]


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PruneChannels(0.5).ratio = 0.6  # type: ignore[misc]


def test_the_examples_can_be_pruned_where_their_plans_say_so() -> None:
    for name in ("digits-cnn", "digits-transformer", "blank"):
        task = load_task(EXAMPLES[name].folder / "task.py", None)
        model = apply_passes(task.load_model(), [PruneChannels(0.3, round_to=8)], task)
        assert parameters(model) < parameters(task.load_model())
