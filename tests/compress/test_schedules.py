import copy
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedeploy.compress import FineTune, PruneWeights, QuantiseAware, apply_passes, optimisers, training
from edgedeploy.compress.held import follow, share, shared_of
from edgedeploy.compress.held_out import held_out_loss
from edgedeploy.compress.training import task_loss, train, train_from_scratch
from edgedeploy.errors import PlanError
from edgedeploy.task import Task, load_task
from tests.compress.measures import same_weights
from tests.support.nets import write_task

pytestmark = pytest.mark.builds

STEPS = 4  # an epoch: 60 examples in batches of 16


def rates(task: Task, settings: FineTune, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rate of each step."""
    made: list[Any] = []
    make = optimisers.optimiser_of

    def noted(*args: Any) -> Any:
        made.append(make(*args))
        return made[-1]

    monkeypatch.setattr(optimisers, "optimiser_of", noted)
    seen: list[float] = []
    model = task.load_model()
    train(model, task, settings, around_pass=lambda _: Noting(seen, made))
    assert {group["lr"] for group in made[0].param_groups} == {made[0].param_groups[0]["lr"]}
    return seen


class Noting:
    def __init__(self, seen: list[float], made: list[Any]) -> None:
        self.seen, self.made = seen, made

    def __enter__(self) -> None:
        self.seen.append(self.made[0].param_groups[0]["lr"])

    def __exit__(self, *_: object) -> None:
        pass


def scripted(losses: Sequence[float], monkeypatch: pytest.MonkeyPatch) -> Iterator[float]:
    left = iter(losses)
    monkeypatch.setattr(training, "held_out_loss", lambda *_: next(left))
    return left


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, lambda step: 0.1 * 0.5 * (1 + math.cos(math.pi * step / (5 * STEPS)))),
        ({"schedule": "constant"}, lambda _: 0.1),
        ({"schedule": "exponential", "decay": 0.8}, lambda step: 0.1 * 0.8 ** (step // STEPS)),
        ({"schedule": "step", "decay": 0.3, "decay_every": 2}, lambda step: 0.1 * 0.3 ** (step // STEPS // 2)),
    ],
)
def test_the_learning_rate_moves_as_asked(
    tiny: Task, settings: dict[str, Any], expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = rates(tiny, FineTune(5, 0.1, batch_size=16, **settings), monkeypatch)
    assert found == pytest.approx([expected(step) for step in range(5 * STEPS)], rel=1e-12)


def test_a_plateau_lowers_it_once_patience_is_used_up(tiny: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted([3.0, 2.0, 2.0, 2.5, 1.9, 2.0, 2.0, 0.0], monkeypatch)
    settings = FineTune(8, 0.1, batch_size=64, schedule="plateau", decay=0.5, patience=1)
    # Each epoch's one step, then the judgement of the epoch.
    found = rates(tiny, settings, monkeypatch)[::2]
    assert found == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025])


def test_training_stops_and_the_best_epoch_is_kept(tiny: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    best = apply_passes(tiny.load_model(), [FineTune(2, schedule="constant")], tiny)
    left = scripted([3.0, 1.0, 2.0, float("nan"), 0.5], monkeypatch)
    stopped = apply_passes(tiny.load_model(), [FineTune(5, schedule="constant", stop_after=2)], tiny)
    assert list(left) == [0.5]
    assert same_weights(stopped, best)


def test_the_best_epoch_is_kept_where_nothing_stops_too(tiny: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    best = apply_passes(tiny.load_model(), [FineTune(1, schedule="constant")], tiny)
    scripted([1.0, 2.0, 3.0], monkeypatch)
    assert same_weights(apply_passes(tiny.load_model(), [FineTune(3, schedule="constant", stop_after=5)], tiny), best)


def test_what_is_trained_beside_the_net_goes_back_with_it(tiny: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    beside = torch.nn.Parameter(torch.zeros(3))
    scripted([1.0, 2.0], monkeypatch)
    values = []
    settings = FineTune(2, 0.1, batch_size=64, optimiser="sgd", weight_decay=0.0, stop_after=9)
    train(
        tiny.load_model(),
        tiny,
        settings,
        loss=lambda _: beside.sum(),
        after_step=lambda _: values.append(beside.detach().clone()),
        more_parameters=[beside],
    )
    assert not torch.equal(values[0], values[1])
    assert torch.equal(beside.detach(), values[0])


def test_epochs_before_a_pass_has_settled_are_not_judged(tiny: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    best = apply_passes(tiny.load_model(), [FineTune(3, schedule="constant")], tiny)
    left = scripted([2.0, 3.0], monkeypatch)
    model = tiny.load_model()
    train(model, tiny, FineTune(4, schedule="constant", stop_after=9), settled=0.75)
    assert list(left) == []
    assert same_weights(model, best)


def test_masks_outlive_the_return_to_the_best_epoch(tiny: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted([1.0, 2.0], monkeypatch)
    model = apply_passes(tiny.load_model(), [PruneWeights(0.5), FineTune(2, 0.1, stop_after=2)], tiny)
    assert sum(int((model.get_parameter(f"{i}.weight") == 0).sum()) for i in (0, 2)) == 56


def test_shared_values_are_those_of_the_best_epoch_too(tiny: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def trained(settings: FineTune) -> Any:
        model = tiny.load_model()
        share(model, {"0.weight": torch.arange(64).reshape(16, 4) % 3})
        return settings.apply(model, tiny)

    best = trained(FineTune(1, 0.1, schedule="constant"))
    scripted([1.0, 2.0], monkeypatch)
    kept = trained(FineTune(2, 0.1, schedule="constant", stop_after=2))
    narrower = [copy.deepcopy(net) for net in (best, kept)]
    for net, before in zip(narrower, (best, kept), strict=True):
        follow(net, before)  # goes by the values that the numbers stand for
    assert torch.equal(shared_of(narrower[0])["0.weight"], shared_of(narrower[1])["0.weight"])
    assert int((shared_of(narrower[1])["0.weight"] < 0).sum()) == 0


def test_quantise_aware_is_judged_once_its_ranges_are_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = load_task(write_task(tmp_path, ("nn.ReLU()", "nn.Dropout(0.5)")), None)
    plain = apply_passes(task.load_model(), [QuantiseAware(3, schedule="constant")], task)
    left = scripted([2.0, 1.0], monkeypatch)
    watched = apply_passes(task.load_model(), [QuantiseAware(3, schedule="constant", stop_after=1)], task)
    assert list(left) == []
    assert same_weights(plain, watched)  # judging left neither ranges nor dropout changed


def test_held_out_is_the_calibration_split_and_nothing_else(tmp_path: Path) -> None:
    def spoiling(names: str) -> tuple[str, str]:
        spoilt = f"    for n in {names}:\n        splits[n] = (splits[n][0] * -9, splits[n][1])\n"
        return ("    return splits", spoilt + "    return splits")

    settings = FineTune(20, 0.1, stop_after=1)
    kept, others, calibration = (
        train_from_scratch(load_task(write_task(tmp_path / name, *changes), None), settings)
        for name, changes in {
            "kept": (),
            "others": (spoiling("('selection', 'test')"),),
            "calibration": (spoiling("('calibration',)"),),
        }.items()
    )
    assert all(bool((kept[name] == others[name]).all()) for name in kept)
    assert not all(bool((kept[name] == calibration[name]).all()) for name in kept)


def test_the_held_out_loss_is_the_mean_over_examples_without_dropout(tmp_path: Path) -> None:
    import torch

    task = load_task(write_task(tmp_path, ("nn.ReLU()", "nn.Dropout(0.5)")), None)
    model = task.load_model()
    with torch.no_grad():
        logits = model(torch.from_numpy(task.calibration.inputs[0])).double().numpy()
    expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(10), task.calibration.targets])
    model.train()
    # 10 examples in batches of 4, so that the last one is smaller.
    assert held_out_loss(model, task.calibration, task_loss(task), 4) == pytest.approx(expected, rel=1e-6)
    assert model.training


@pytest.mark.parametrize(("optimiser", "kind"), [("adamw", "AdamW"), ("adam", "Adam"), ("sgd", "SGD")])
def test_weight_decay_spares_vectors(tiny: Task, optimiser: Any, kind: str) -> None:
    parameters = list(tiny.load_model().parameters())
    made = optimisers.optimiser_of(parameters, FineTune(1, optimiser=optimiser, weight_decay=0.3))
    assert type(made).__name__ == kind
    decays = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    assert [decays[id(p)] for p in parameters] == [0.3, 0.0, 0.3, 0.0]


@pytest.mark.parametrize(
    ("settings", "momentum", "nesterov"),
    [
        ({}, 0.9, True),
        ({"momentum": 0.5}, 0.5, True),
        ({"momentum": 0.0}, 0.0, False),
        ({"nesterov": False}, 0.9, False),
    ],
)
def test_sgd_steps_as_written_down(tiny: Task, settings: dict[str, Any], momentum: float, nesterov: bool) -> None:
    import torch

    asked = FineTune(2, 0.1, batch_size=64, optimiser="sgd", schedule="constant", weight_decay=0.0, **settings)
    tuned = apply_passes(tiny.load_model(), [asked], tiny)
    model = tiny.load_model()
    inputs, targets = torch.from_numpy(tiny.train.inputs[0]), torch.from_numpy(tiny.train.targets)
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    for _ in range(2):
        parameters = list(model.parameters())
        gradients = torch.autograd.grad(torch.nn.functional.cross_entropy(model(inputs), targets), parameters)
        for parameter, gradient, speed in zip(parameters, gradients, velocity, strict=True):
            speed.mul_(momentum).add_(gradient)
            parameter.data -= 0.1 * (gradient + momentum * speed if nesterov else speed)
    for expected, found in zip(model.parameters(), tuned.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_gradients_are_clipped_by_their_norm_together(tiny: Task) -> None:
    settings: dict[str, Any] = {"optimiser": "sgd", "momentum": 0.0, "schedule": "constant", "weight_decay": 0.0}
    before = tiny.load_model()
    moved = []
    for clip in (1e-3, None):
        after = apply_passes(tiny.load_model(), [FineTune(1, 0.1, 64, grad_clip=clip, **settings)], tiny)
        steps = [float((a - b).detach().norm()) for a, b in zip(after.parameters(), before.parameters(), strict=True)]
        moved.append(math.hypot(*steps))
    assert moved[0] == pytest.approx(0.1 * 1e-3, rel=1e-2)
    assert moved[1] > 10 * moved[0]


def test_batches_of_one_train(tiny: Task) -> None:
    assert not same_weights(apply_passes(tiny.load_model(), [FineTune(1, batch_size=1)], tiny), tiny.load_model())


def test_a_task_whose_loss_fails_on_held_out_data_says_so(tmp_path: Path) -> None:
    extra = "\n\ndef loss(output, target):\n    assert len(target) != 10\n    return (output ** 2).mean()\n"
    task = load_task(write_task(tmp_path, extra=extra), None)
    with pytest.raises(PlanError, match=r"loss\(\) raised AssertionError"):
        train_from_scratch(task, FineTune(1, stop_after=1))
