import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgedeploy.compress import FineTune, PruneChannels, PruneWeights, Soup, apply_passes, running_statistics
from edgedeploy.compress.held import share, shared_of
from edgedeploy.compress.soup import average
from edgedeploy.compress.training import save_weights
from edgedeploy.errors import CompressionError, PlanError
from edgedeploy.records import Pass
from edgedeploy.task import Task, load_task, predict
from tests.compress.measures import accuracy, few, parameters, same_weights
from tests.support.nets import write_task

pytestmark = pytest.mark.builds

FILES = ("a.safetensors", "b.safetensors", "c.safetensors", "d.safetensors")


@pytest.fixture
def with_files(tmp_path: Path) -> Task:
    """Four state dicts beside the task: trained long, trained otherwise, hardly trained, and turned round."""
    task = load_task(write_task(tmp_path), None)
    nets = [apply_passes(task.load_model(), [settings], task) for settings in (FineTune(40, 0.03), FineTune(9, 0.03))]
    nets += [apply_passes(task.load_model(), [FineTune(1, 1e-4)], task)]
    turned = {name: -value for name, value in nets[0].state_dict().items()}
    for name, state in zip(FILES, [*(net.state_dict() for net in nets), turned], strict=True):
        save_weights(state, tmp_path / name)
    return task


def states(task: Task) -> list[dict[str, Any]]:
    from safetensors.torch import load_file

    return [load_file(task.folder / name) for name in FILES]


def mean(chosen: list[dict[str, Any]], weights: list[float]) -> dict[str, Any]:
    total = sum(weights)
    return {
        name: sum(w / total * state[name].double().numpy() for state, w in zip(chosen, weights, strict=True))
        for name in chosen[0]
    }


def holds(model: nn.Module, expected: dict[str, Any]) -> bool:
    return all(np.allclose(value.numpy(), expected[name], atol=1e-7) for name, value in model.state_dict().items())


def test_files_are_averaged(with_files: Task) -> None:
    uniform = apply_passes(with_files.load_model(), [Soup(files=FILES[:3], method="uniform")], with_files)
    assert holds(uniform, mean(states(with_files)[:3], [1, 1, 1]))
    settings = Soup(files=FILES[:3], method="weighted", weights=(3.0, 0.0, 1.0))
    assert holds(apply_passes(with_files.load_model(), [settings], with_files), mean(states(with_files)[:3], [3, 0, 1]))


def test_greedy_takes_what_makes_it_no_worse(with_files: Task) -> None:
    """Held against an enumeration by other means: NumPy's forward pass, metric and loss."""
    inputs, targets = with_files.calibration.inputs[0].astype(np.float64), with_files.calibration.targets

    def score(state: dict[str, Any]) -> tuple[float, float]:
        hidden = np.maximum(inputs @ np.asarray(state["0.weight"]).T + np.asarray(state["0.bias"]), 0)
        logits = hidden @ np.asarray(state["2.weight"]).T + np.asarray(state["2.bias"])
        losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(targets)), targets]
        return float((logits.argmax(1) == targets).mean()), -float(losses.mean())

    for files in (FILES, tuple(reversed(FILES)), FILES[1:3]):
        found = dict(zip(FILES, states(with_files), strict=True))
        order = sorted((found[name] for name in files), key=score, reverse=True)
        taken = order[:1]
        for state in order[1:]:
            if score(mean([*taken, state], [1.0] * (len(taken) + 1))) >= score(mean(taken, [1.0] * len(taken))):
                taken = [*taken, state]
        soup = apply_passes(with_files.load_model(), [Soup(files=files)], with_files)
        assert len(taken) < len(files) or len(files) == 2
        assert holds(soup, mean(taken, [1.0] * len(taken)))


def test_neither_selection_nor_test_is_looked_at(with_files: Task) -> None:
    spoilt = dataclasses.replace(with_files.test, targets=with_files.test.targets * 0)
    changed = dataclasses.replace(with_files, selection=spoilt, test=spoilt)
    first, second = (Soup(files=FILES).apply(task.load_model(), task) for task in (with_files, changed))
    assert same_weights(first, second)


def test_members_differ_by_seed_and_rate_alone(tiny: Task) -> None:
    settings = Soup(2, members=2, method="uniform", learning_rates=(1e-2, 3e-2), seed=5)
    members = [
        apply_passes(tiny.load_model(), [FineTune(2, rate, seed=seed)], tiny).state_dict()
        for rate, seed in ((1e-2, 5), (3e-2, 6))
    ]
    first, again = (apply_passes(tiny.load_model(), [settings], tiny) for _ in range(2))
    assert holds(first, mean(members, [1, 1]))
    assert same_weights(first, again)
    assert not same_weights(first, apply_passes(tiny.load_model(), [dataclasses.replace(settings, seed=6)], tiny))


def test_what_is_no_float_comes_from_the_first() -> None:
    one = {"w": torch.tensor([1.0]), "n": torch.tensor(3)}
    other = {"w": torch.tensor([2.0]), "n": torch.tensor(8)}
    found = average([one, other], [1.0, 3.0])
    assert (float(found["w"]), int(found["n"])) == (1.75, 3)
    assert found["w"].dtype == torch.float32


def test_batch_norms_learn_their_statistics_anew(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path, ("nn.ReLU()", "nn.BatchNorm1d(16), nn.Dropout(0.5)")), None)
    model = apply_passes(task.load_model(), [Soup(1, members=2, method="uniform", batch_size=20)], task)
    with torch.no_grad():
        before = model.get_submodule("0")(torch.from_numpy(task.train.inputs[0])).split(20)
    means = torch.stack([part.mean(0) for part in before]).mean(0)
    variances = torch.stack([part.var(0) for part in before]).mean(0)
    torch.testing.assert_close(model.get_buffer("1.running_mean"), means)
    torch.testing.assert_close(model.get_buffer("1.running_var"), variances)
    assert model.get_submodule("1").momentum == 0.1
    assert not any(module.training for module in model.modules())


def test_statistics_are_cut_into_even_batches() -> None:
    sizes: list[int] = []
    net = nn.Sequential(nn.BatchNorm1d(2))
    net.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    running_statistics.estimate(net, (np.random.default_rng(0).normal(size=(41, 2)).astype(np.float32),), 20)
    assert sizes == [21, 20]
    sizes.clear()
    running_statistics.estimate(nn.Sequential(nn.Linear(2, 2)), (np.zeros((3, 2), np.float32),), 2)


@pytest.mark.parametrize("family", ["cnn", "gru", "transformer"])
def test_held_zeros_stay(family: str, request: pytest.FixtureRequest) -> None:
    task = few(request.getfixturevalue(f"trained_{family}"))
    soup = Soup(1, 1e-3, members=2)
    model = apply_passes(task.load_model(), [PruneWeights(0.5), soup], task)
    pruned = apply_passes(task.load_model(), [PruneWeights(0.5)], task)
    for before, after in zip(pruned.parameters(), model.parameters(), strict=True):
        if before.ndim > 1:
            assert not after[before == 0].any()
    assert accuracy(model, task) > 0.2


def test_shared_weights_stay_shared(tiny: Task) -> None:
    model = tiny.load_model()
    share(model, {"0.weight": torch.arange(64).reshape(16, 4) % 3})
    assert shared_of(model)
    model = apply_passes(model, [Soup(2, 1e-2, members=3)], tiny)
    assert len(set(model.get_parameter("0.weight").detach().flatten().tolist())) == 3
    assert not same_weights(model, tiny.load_model())


def test_a_narrower_net_is_averaged_from_members(trained_cnn: Task) -> None:
    passes: list[Pass] = [PruneChannels(0.5), Soup(1, 3e-3, members=2, method="uniform")]
    model = apply_passes(trained_cnn.load_model(), passes, few(trained_cnn))
    assert parameters(model) < 0.5 * parameters(trained_cnn.load_model())
    assert predict(model, trained_cnn.example)[0].shape == (1, 10)


@pytest.mark.parametrize("earlier", [PruneWeights(0.5), PruneChannels(0.5)])
def test_files_must_come_first(with_files: Task, earlier: Pass) -> None:
    with pytest.raises(CompressionError, match=r"soup: files hold nets as model\(\) makes them.*put it first"):
        apply_passes(with_files.load_model(), [earlier, Soup(files=FILES)], with_files)


def test_files_that_do_not_fit_are_named(with_files: Task) -> None:
    save_weights({"0.weight": torch.zeros(2, 2)}, with_files.folder / "small.safetensors")
    (with_files.folder / "code.pt").write_bytes(b"not a state dict")
    for name, message in {
        "none.pt": r"none.pt: no such weights file",
        "small.safetensors": r"small.safetensors: the weights do not fit the net of model\(\): 0.bias is missing",
        "code.pt": r"code.pt: not a",
    }.items():
        with pytest.raises(PlanError, match=message):
            apply_passes(with_files.load_model(), [Soup(files=(FILES[0], name))], with_files)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "members is missing; give it, or files"),
        ({"epochs": 1, "members": 2, "files": ("a", "b")}, "members and files are both given; keep one"),
        ({"members": 2}, "epochs is 0; it must be at least 1"),
        ({"epochs": 1, "members": 1}, "members gives 1 net; it must give at least 2"),
        ({"files": ("a",)}, "files gives 1 net; it must give at least 2"),
        ({"epochs": 1, "files": ("a", "b")}, "epochs is given, but files are averaged as they are"),
        ({"learning_rates": (1.0, 2.0), "files": ("a", "b")}, "learning_rates is given, but files are averaged"),
        ({"epochs": 1, "members": 2, "learning_rates": (1.0,)}, "learning_rates has 1 entries; it must have 2"),
        ({"epochs": 1, "members": 2, "learning_rates": (1.0, 0.0)}, "learning_rate is 0.0; it must be above 0"),
        ({"epochs": 1, "members": 2, "method": "best"}, "method is 'best'; it must be uniform or weighted or greedy"),
        ({"epochs": 1, "members": 2, "weights": (1.0, 1.0)}, "weights are given, but greedy has no use for them"),
        ({"epochs": 1, "members": 2, "method": "weighted"}, "weights has 0 entries; it must have 2"),
        ({"files": ("a", "b"), "method": "weighted", "weights": (1.0, -1.0)}, "they must be 0 or above"),
        ({"files": ("a", "b"), "method": "weighted", "weights": (0.0, 0.0)}, "one of them above 0"),
        ({"epochs": 1, "members": 2, "schedule": "step"}, "decay is missing"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        functools.partial(Soup, **settings)()
