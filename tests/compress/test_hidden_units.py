"""Units leave a recurrent layer with all that belongs to them, and the net computes as if they had fallen silent."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgedeploy import export
from edgedeploy.compress import FineTune, PruneHiddenUnits, apply_passes
from edgedeploy.compress.held import hold, masks_of, share, shared_of
from edgedeploy.errors import CompressionError
from edgedeploy.records import Format, Precision, Target
from edgedeploy.task import Split, Task, predict
from tests.compress.measures import accuracy, parameters, same_weights
from tests.compress.recurrent_nets import FEATURES, HIDDEN, STEPS, last_step_task, linear, recurrent, task_of

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.builds


def weaken(layer: Any, units: Mapping[str, list[int]]) -> None:
    """Make units of some layers and directions, by the suffix of their parameters, matter least."""
    import torch

    with torch.no_grad():
        for suffix, which in units.items():
            for name, parameter in layer.named_parameters():
                if name.split("_", 2)[2] == suffix:
                    parameter.view(-1, layer.hidden_size, *parameter.shape[1:])[:, which] *= 1e-4
            getattr(layer, f"weight_hh_{suffix}")[:, which] *= 1e-4


def silent_outputs(layer: Any, rows: torch.Tensor, silent: list[int]) -> torch.Tensor:
    """The output of one layer and direction, step by step, with the state of these units set to 0 after each."""
    import torch
    from torch import nn

    cell: Any = {"GRU": nn.GRUCell, "LSTM": nn.LSTMCell}.get(layer.mode)
    settings = {} if cell else {"nonlinearity": layer.nonlinearity}
    cell = (cell or nn.RNNCell)(layer.input_size, layer.hidden_size, **settings)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    mask = torch.ones(layer.hidden_size)
    mask[silent] = 0
    state: Any = torch.zeros(len(rows), layer.hidden_size)
    memory, outputs = state, []
    for step in rows.unbind(1):
        if layer.mode == "LSTM":
            state, memory = (one * mask for one in cell(step, (state, memory)))
        else:
            state = cell(step, state) * mask
        outputs.append(state)
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize(
    ("kind", "settings"), [("GRU", {}), ("LSTM", {}), ("RNN", {}), ("RNN", {"nonlinearity": "relu"})]
)
def test_it_computes_what_the_full_net_does_while_the_units_are_silent(kind: str, settings: dict[str, Any]) -> None:
    import torch

    task = last_step_task(kind, **settings)
    model: Any = task.load_model()
    weak = [0, 3, 4, 7]
    weaken(model.layer, {"l0": weak})
    narrow: Any = PruneHiddenUnits(0.5).apply(model, task)
    rows = torch.from_numpy(task.test.inputs[0])
    with torch.no_grad():
        expected = model.head(silent_outputs(model.layer, rows, weak)[:, -1])
        found = narrow(rows)
    assert found.numpy() == pytest.approx(expected.numpy(), abs=1e-5)
    layer = narrow.layer
    assert (layer.hidden_size, layer.input_size, narrow.head.in_features) == (4, FEATURES, 4)
    assert layer.state_dict().keys() == model.layer.state_dict().keys()


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
@pytest.mark.parametrize("importance", ["l1", "l2", "gradient"])
def test_the_least_important_units_of_each_layer_and_direction_go(kind: str, importance: Any) -> None:
    settings = {"num_layers": 2, "bidirectional": True}
    task = task_of(
        lambda net, rows: net.head(net.layer(rows)[0].mean(1)),
        lambda: {"layer": recurrent(kind, **settings), "head": linear(2 * HIDDEN)},
    )
    model: Any = task.load_model()
    weak = {"l0": [1, 2], "l0_reverse": [0, 7], "l1": [5, 6], "l1_reverse": [2, 3]}
    weaken(model.layer, weak)
    before = predict(model, task.test.inputs)[0]
    narrow: Any = PruneHiddenUnits(0.25, importance=importance).apply(model, task)
    assert predict(narrow, task.test.inputs)[0] == pytest.approx(before, abs=2e-3)
    assert narrow.layer.weight_ih_l1.shape[1] == narrow.head.in_features == 12
    for suffix, gone in weak.items():
        kept = [unit for unit in range(HIDDEN) if unit not in gone]
        old = getattr(model.layer, f"bias_ih_{suffix}").detach().view(-1, HIDDEN)[:, kept].flatten()
        assert getattr(narrow.layer, f"bias_ih_{suffix}").detach().equal(old)


def two_stacked() -> dict[str, Any]:
    from torch import nn

    return {"layer": recurrent(), "norm": nn.LayerNorm(HIDDEN), "second": recurrent("LSTM", HIDDEN), "head": linear()}


def with_convolution() -> dict[str, Any]:
    from torch import nn

    return {
        "layer": recurrent(),
        "norm": nn.BatchNorm1d(HIDDEN, affine=False),
        "convolution": nn.Conv1d(HIDDEN, 4, 3),
        "head": linear(4),
    }


def with_scores() -> dict[str, Any]:
    return {"layer": recurrent(), "score": linear(), "head": linear()}


READERS: dict[str, tuple[Callable[..., Any], Callable[[], Mapping[str, Any]], dict[str, tuple[str, int]]]] = {
    "a recurrent layer behind a norm": (
        lambda net, rows: net.head(net.second(net.norm(net.layer(rows)[0]))[0][:, -1]),
        two_stacked,
        {"second": ("input_size", 4), "head": ("in_features", 4)},
    ),
    "a convolution over time behind a norm": (
        lambda net, rows: net.head(net.convolution(net.norm(net.layer(rows)[0].transpose(1, 2))).relu().mean(2)),
        with_convolution,
        {"norm": ("num_features", 4), "convolution": ("in_channels", 4), "head": ("in_features", 4)},
    ),
    "all steps in a row": (
        lambda net, rows: net.head(net.layer(rows)[0].relu().flatten(1)),
        lambda: {"layer": recurrent(), "head": linear(STEPS * HIDDEN)},
        {"head": ("in_features", STEPS * 4)},
    ),
    "the last states of all layers in a row": (
        lambda net, rows: net.head(net.layer(rows)[1][0].transpose(0, 1).flatten(1)),
        lambda: {"layer": recurrent("LSTM", num_layers=2, bidirectional=True), "head": linear(4 * HIDDEN)},
        {"head": ("in_features", 16)},
    ),
    "memory and state side by side": (
        lambda net, rows: net.head(__import__("torch").cat([state[-1] for state in net.layer(rows)[1]], 1)),
        lambda: {"layer": recurrent("LSTM"), "head": linear(2 * HIDDEN)},
        {"head": ("in_features", 8)},
    ),
    "two layers beside the input": (
        lambda net, rows: net.head(
            __import__("torch").cat([rows[:, 0], net.layer(rows)[0][:, -1], net.second(rows)[1][0]], dim=1)
        ),
        lambda: {"layer": recurrent(), "second": recurrent("RNN"), "head": linear(FEATURES + 2 * HIDDEN)},
        {"head": ("in_features", FEATURES + 8)},
    ),
    "a score for each step": (
        lambda net, rows: (lambda states: net.head((net.score(states)[..., :1].softmax(1) * states).sum(1)))(
            net.layer(rows)[0]
        ),
        with_scores,
        {"score": ("in_features", 4), "head": ("in_features", 4)},
    ),
}


@pytest.mark.parametrize("case", READERS)
def test_whoever_reads_the_units_loses_them_too(case: str) -> None:
    forward, layers, expected = READERS[case]
    task = task_of(forward, layers)
    model = task.load_model()
    narrow = apply_passes(copy.deepcopy(model), [PruneHiddenUnits(0.5, importance="random")], task)
    for name, (attribute, width) in expected.items():
        layer = narrow.get_submodule(name)
        assert getattr(layer, attribute) == width
        weight = getattr(layer, "weight_ih_l0", getattr(layer, "weight", None))
        assert weight is None or weight.shape[1] == width
    apply_passes(narrow, [FineTune(1)], task)


def test_layers_are_chosen_by_name() -> None:
    forward, layers, _ = READERS["a recurrent layer behind a norm"]
    task = task_of(forward, layers)
    model: Any = PruneHiddenUnits(0.5, only=("sec*",)).apply(task.load_model(), task)
    assert (model.layer.hidden_size, model.second.hidden_size, model.head.in_features) == (8, 4, 4)
    model = PruneHiddenUnits(0.5, skip=("second",)).apply(task.load_model(), task)
    assert (model.layer.hidden_size, model.second.hidden_size, model.second.input_size) == (4, 8, 4)
    assert model.norm.normalized_shape == (4,)
    with pytest.raises(CompressionError, match="only names 'third', but nothing is called so; these are: layer, sec"):
        PruneHiddenUnits(0.5, only=("third",)).apply(model, task)


@pytest.mark.parametrize(
    ("ratio", "round_to", "width"), [(0.5, None, 4), (0.3, None, 6), (0.3, 4, 4), (0.6, 3, 3), (0.9, 4, 4)]
)
def test_as_many_remain_as_asked_for(ratio: float, round_to: int | None, width: int) -> None:
    task = last_step_task()
    model: Any = PruneHiddenUnits(ratio, round_to).apply(task.load_model(), task)
    assert model.layer.hidden_size == width


def test_the_gradient_tells_what_silence_costs() -> None:
    """Against the slope of the loss as all readers of one unit turn it down, taken by finite differences."""
    import torch

    from edgedeploy.compress.hidden_units import _loss_changes
    from edgedeploy.compress.units import find_units

    task = last_step_task()
    split = Split((task.calibration.inputs[0][:3].astype(np.float64),), task.calibration.targets[:3])
    task = dataclasses.replace(task, calibration=split)
    rows, targets = torch.from_numpy(split.inputs[0]), torch.from_numpy(split.targets)
    model: Any = task.load_model().double()
    scores = _loss_changes(model, [find_units("a test", model, "layer", (rows,))], task)
    losses = []
    for factor in (1.001, 0.999):
        for unit in range(HIDDEN):
            turned = copy.deepcopy(model)
            with torch.no_grad():
                for weight in (turned.layer.weight_hh_l0, turned.head.weight):
                    weight[:, unit] *= factor
                losses.append(torch.nn.functional.cross_entropy(turned(rows), targets, reduction="none"))
    more, less = torch.stack(losses).view(2, HIDDEN, 3)
    expected = ((more - less) / 0.002).square().sum(1)
    assert scores["layer"].numpy() == pytest.approx(expected.detach().numpy(), rel=1e-3)


def test_frozen_weights_stay_frozen() -> None:
    task = last_step_task()
    model = PruneHiddenUnits(0.5, importance="gradient").apply(task.load_model().requires_grad_(False), task)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_held_zeros_and_shared_weights_stay_held() -> None:
    import torch

    task = last_step_task()
    model: Any = task.load_model()
    hold(model, {"layer.weight_hh_l0": model.layer.weight_hh_l0.abs() > 0.15})
    share(model, {"head.weight": torch.arange(3 * HIDDEN).view(3, HIDDEN) % 4})
    narrow: Any = PruneHiddenUnits(0.5).apply(model, task)
    zeros = narrow.layer.weight_hh_l0 == 0
    assert 0 < int(zeros.sum()) < zeros.numel()
    assert masks_of(narrow)["layer.weight_hh_l0"].equal(~zeros)
    assert shared_of(narrow)["head.weight"].shape == (3, 4)
    tuned: Any = apply_passes(narrow, [FineTune(1, 1e-2)], task)
    assert (tuned.layer.weight_hh_l0 == 0).equal(zeros)
    assert len(tuned.head.weight.unique()) <= 4


def test_the_same_twice_gives_the_same_and_another_seed_another() -> None:
    task = last_step_task()
    one, other, third = (
        PruneHiddenUnits(0.5, importance="random", seed=seed).apply(task.load_model(), task) for seed in (0, 0, 1)
    )
    assert same_weights(one, other)
    assert not same_weights(one, third)


def test_a_ratio_too_small_for_the_rounding_is_refused() -> None:
    task = last_step_task()
    with pytest.raises(CompressionError, match="can give 25% of its units and keep a multiple of 8; lower round_to"):
        PruneHiddenUnits(0.25, round_to=8).apply(task.load_model(), task)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 1.0}, "ratio is 1.0; it must lie between 0 and 1"),
        ({"ratio": float("nan")}, "ratio is nan"),
        ({"ratio": 0.5, "round_to": 0}, "round_to is 0; it must be at least 1"),
        ({"ratio": 0.5, "importance": "l3"}, "importance is 'l3'; it must be l1, l2, gradient or random"),
        ({"ratio": 0.5, "seed": -1}, "seed is -1; it must be 0 or above"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PruneHiddenUnits(**settings)


def test_half_a_gru_learns_again_and_runs_in_both_formats(trained_gru: Task, tmp_path: Path) -> None:
    full = trained_gru.load_model()
    model: Any = apply_passes(trained_gru.load_model(), [PruneHiddenUnits(0.5), FineTune(6, 5e-3)], trained_gru)
    assert model.gru.hidden_size == 48
    assert parameters(model) < 0.35 * parameters(full)
    assert accuracy(model, trained_gru) > 0.85
    for file_format in Format:
        target = Target(file_format, Precision.FP32)
        exported = export.export(model, target, trained_gru, tmp_path)
        assert export.check_parity(exported, target, trained_gru).relative_rms_error < 1e-5
