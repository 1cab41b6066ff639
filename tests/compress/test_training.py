from pathlib import Path
from typing import Any

import pytest

from edgedeploy.compress import FineTune, apply_passes
from edgedeploy.compress.training import save_weights, train_from_scratch
from edgedeploy.errors import CompressionError, PlanError
from edgedeploy.task import Task, load_task
from tests.compress.measures import accuracy, same_weights
from tests.support.nets import write_task

pytestmark = pytest.mark.builds


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(tiny: Task) -> None:
    import torch

    torch.manual_seed(123)
    first = train_from_scratch(tiny, FineTune(2))
    torch.manual_seed(321)
    second = train_from_scratch(tiny, FineTune(2))
    third = train_from_scratch(tiny, FineTune(2, seed=1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_fine_tuning_is_the_same_each_time_with_dropout_too(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path, ("nn.ReLU()", "nn.Dropout(0.5)")), None)
    first, second = (apply_passes(task.load_model(), [FineTune(2)], task) for _ in range(2))
    assert same_weights(first, second)


def test_nothing_of_the_process_is_left_changed(tiny: Task) -> None:
    import torch

    state, threads, gradients = torch.random.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled()
    model = apply_passes(tiny.load_model(), [FineTune(1, threads=threads + 1)], tiny)
    train_from_scratch(tiny, FineTune(1, threads=threads + 1))
    with pytest.raises(CompressionError):
        FineTune(1, threads=threads + 1).apply(tiny.load_model().requires_grad_(False), tiny)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, gradients)
    assert not model.training


@pytest.mark.parametrize(
    "settings",
    [
        {"optimiser": "adamw"},
        {"optimiser": "adam", "schedule": "constant"},
        {"optimiser": "sgd", "schedule": "exponential", "decay": 0.97},
        {"optimiser": "sgd", "momentum": 0.8, "nesterov": False, "schedule": "step", "decay": 0.5, "decay_every": 20},
        {"schedule": "plateau", "decay": 0.5, "patience": 3, "grad_clip": 1.0, "stop_after": 20},
    ],
)
def test_it_learns(tiny: Task, settings: dict[str, Any]) -> None:
    before = accuracy(tiny.load_model(), tiny)
    model = apply_passes(tiny.load_model(), [FineTune(60, 0.03, batch_size=16, weight_decay=0.0, **settings)], tiny)
    assert accuracy(model, tiny) >= max(0.75, before)


def test_only_the_training_split_is_seen(tmp_path: Path) -> None:
    kept = write_task(tmp_path / "kept")
    spoilt = (
        "    for n in ('calibration', 'selection', 'test'):\n        splits[n] = (splits[n][0] + 9, splits[n][1] * 0)\n"
    )
    changed = write_task(tmp_path / "changed", ("    return splits", spoilt + "    return splits"))
    first, second = (train_from_scratch(load_task(file, None), FineTune(2)) for file in (kept, changed))
    assert all(bool((first[name] == second[name]).all()) for name in first)


def test_progress_is_told_after_each_epoch(tiny: Task) -> None:
    lines: list[str] = []
    train_from_scratch(tiny, FineTune(3), lines.append)
    assert [line.partition(",")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert all("loss" in line for line in lines)


def test_a_last_batch_of_one_does_not_stop_batch_normalisation(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path, ("nn.ReLU()", "nn.BatchNorm1d(16)"), ('"train": 60', '"train": 61')), None)
    train_from_scratch(task, FineTune(1, batch_size=20))


def test_frozen_parameters_are_left_alone(tiny: Task) -> None:
    import torch

    model = tiny.load_model()
    model.get_submodule("0").requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    FineTune(1, 0.1).apply(model, tiny)
    after = model.state_dict()
    assert torch.equal(before["0.weight"], after["0.weight"])
    assert not torch.equal(before["2.weight"], after["2.weight"])
    with pytest.raises(CompressionError, match="no parameter that can be trained"):
        FineTune(1).apply(model.requires_grad_(False), tiny)


def test_real_numbers_as_targets_are_fitted(tmp_path: Path) -> None:
    change = ("inputs[:, :3].argmax(axis=1))", "inputs[:, :3])")
    metric = ("outputs[0].argmax(axis=1) == targets", "-((outputs[0] - targets) ** 2).mean(axis=1)")
    task = load_task(write_task(tmp_path, change, metric), None)
    model = apply_passes(task.load_model(), [FineTune(80, 0.02)], task)
    assert accuracy(model, task) > 0.5 * accuracy(task.load_model(), task)


def test_the_tasks_own_loss_is_used(tmp_path: Path) -> None:
    extra = "\n\ndef loss(output, target):\n    return (output ** 2).mean()\n"
    task = load_task(write_task(tmp_path, extra=extra), None)
    model = apply_passes(task.load_model(), [FineTune(100, 0.03, weight_decay=0.0)], task)
    assert bool((model.get_parameter("2.bias").abs() < 0.1).all())


def test_divergence_is_an_error(tmp_path: Path) -> None:
    extra = "\n\ndef loss(output, target):\n    return output.sum() * float('inf')\n"
    task = load_task(write_task(tmp_path, extra=extra), None)
    with pytest.raises(CompressionError, match=r"the loss became .* in epoch 1; lower learning_rate \(now 0.001\)"):
        train_from_scratch(task, FineTune(1))


@pytest.mark.parametrize(
    ("changes", "extra", "error", "message"),
    [
        ([("[:, :3].argmax(axis=1)", "[:, :3].argmax(axis=1) + 5")], "", CompressionError, "IndexError: Target"),
        ([("[:, :3].argmax(axis=1)", "[:, :2]")], "", PlanError, "differ in shape"),
        ([], "\n\ndef loss(output, target):\n    return output.no_such\n", PlanError, r"task.py:\d+: loss\(\) raised"),
    ],
)
def test_what_does_not_fit_the_loss_is_said(
    tmp_path: Path, changes: list[tuple[str, str]], extra: str, error: type[Exception], message: str
) -> None:
    task = load_task(write_task(tmp_path, *changes, extra=extra), None)
    with pytest.raises(error, match=message):
        train_from_scratch(task, FineTune(1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"epochs": 1, "batch_size": 0}, "batch_size is 0"),
        ({"epochs": 1, "learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"epochs": 1, "learning_rate": float("inf")}, "learning_rate is inf"),
        ({"epochs": 1, "weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"epochs": 1, "threads": 0}, "threads is 0; it must be at least 1"),
        ({"epochs": 1, "seed": -1}, "seed is -1"),
        ({"epochs": 1, "optimiser": "lion"}, "optimiser is 'lion'; it must be adamw or adam or sgd"),
        ({"epochs": 1, "schedule": "steps"}, "schedule is 'steps'; it must be cosine or constant or exponential or"),
        ({"epochs": 1, "stop_after": 0}, "stop_after is 0; it must be at least 1"),
        ({"epochs": 1, "grad_clip": 0.0}, "grad_clip is 0.0; it must be above 0"),
        ({"epochs": 1, "momentum": 0.5}, "momentum is given, but adamw has none; leave it out, or take sgd"),
        ({"epochs": 1, "optimiser": "adam", "nesterov": False}, "nesterov is given, but adam has none"),
        ({"epochs": 1, "optimiser": "sgd", "momentum": 1.0}, "momentum is 1.0; it must be from 0 to below 1"),
        ({"epochs": 1, "optimiser": "sgd", "momentum": 0.0, "nesterov": True}, "nesterov is true, but momentum is 0"),
        ({"epochs": 1, "schedule": "exponential"}, "decay is missing; the schedule exponential needs it"),
        ({"epochs": 1, "schedule": "step", "decay": 0.5}, "decay_every is missing; the schedule step needs it"),
        ({"epochs": 1, "schedule": "plateau", "decay": 0.5}, "patience is missing; the schedule plateau needs it"),
        ({"epochs": 1, "decay": 0.5}, "decay is 0.5, but the schedule cosine has no use for it; leave it out"),
        ({"epochs": 1, "schedule": "exponential", "decay": 1.0}, "decay is 1.0; it must lie between 0 and 1"),
        ({"epochs": 1, "schedule": "step", "decay": 0.5, "decay_every": 0}, "decay_every is 0; it must be at least 1"),
        ({"epochs": 1, "schedule": "plateau", "decay": 0.5, "patience": -1}, "patience is -1; it must be at least 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FineTune(**settings)


def test_weights_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    shared = torch.ones(3)
    save_weights({"a": shared, "b": shared, "c": torch.ones(4, 2).T}, tmp_path / "new" / "w.safetensors")
    assert sorted(load_file(tmp_path / "new" / "w.safetensors")) == ["a", "b", "c"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["w.safetensors"]

    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(PlanError, match="cannot be written"):
        save_weights({"a": shared}, tmp_path / "folder.safetensors")
    (tmp_path / "file").write_text("")
    with pytest.raises(PlanError, match="cannot be written"):
        save_weights({"a": shared}, tmp_path / "file" / "w.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {"new", "folder.safetensors", "file"}
