import dataclasses

import pytest

from edgedeploy.compress.held import hold
from edgedeploy.compress.importance import IMPORTANCES, scores
from edgedeploy.task import Split, Task

pytestmark = pytest.mark.builds
NAMES = ("0.weight", "2.weight")


def test_magnitudes_and_squares(tiny: Task) -> None:
    import torch

    model = tiny.load_model()
    for name in NAMES:
        weight = model.get_parameter(name).detach()
        assert torch.equal(scores("l1", model, tiny, NAMES)[name], weight.abs())
        assert torch.equal(scores("l2", model, tiny, NAMES)[name], weight**2)


def test_the_gradient_is_that_of_the_loss_summed_over_the_training_split(tiny: Task) -> None:
    import torch

    model = tiny.load_model()
    threads = torch.get_num_threads()
    found = scores("gradient", model, tiny, NAMES)
    model.zero_grad()
    inputs, targets = torch.from_numpy(tiny.train.inputs[0]), torch.from_numpy(tiny.train.targets)
    loss = torch.nn.functional.cross_entropy(model(inputs), targets, reduction="sum")
    loss.backward()  # type: ignore[no-untyped-call]
    for name in NAMES:
        weight = model.get_parameter(name)
        assert weight.grad is not None
        assert torch.allclose(found[name], (weight * weight.grad).abs(), rtol=1e-4, atol=1e-6)
    assert torch.get_num_threads() == threads


def test_the_gradient_foretells_what_the_loss_changes_by(tiny: Task) -> None:
    import torch

    model = tiny.load_model().double()
    inputs = tiny.train.inputs[0].astype("float64")
    task = dataclasses.replace(tiny, train=Split((inputs,), tiny.train.targets))

    def loss() -> float:
        with torch.no_grad():
            output = model(torch.from_numpy(inputs))
            return float(torch.nn.functional.cross_entropy(output, torch.from_numpy(tiny.train.targets)))

    weight, before = model.get_parameter("0.weight"), loss()
    with torch.no_grad():
        weight[0, 0] = 1e-4  # so small that what is left out of the first order does not count
    foretold = float(scores("gradient", model, task, NAMES)["0.weight"][0, 0]) / len(task.train)
    before = loss()
    with torch.no_grad():
        weight[0, 0] = 0.0
    assert abs(loss() - before) == pytest.approx(foretold, rel=1e-2)


def test_frozen_weights_have_gradients_and_stay_frozen(tiny: Task) -> None:
    import torch

    model = tiny.load_model()
    thawed = scores("gradient", model, tiny, NAMES)
    model.requires_grad_(False)
    frozen = scores("gradient", model, tiny, NAMES)
    assert all(torch.equal(frozen[name], thawed[name]) for name in NAMES)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_random_numbers_follow_the_seed(tiny: Task) -> None:
    import torch

    model = tiny.load_model()
    one, again, other = (scores("random", model, tiny, NAMES, seed)["0.weight"] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_lamp_compares_each_weight_with_those_of_its_layer_that_are_not_smaller(tiny: Task) -> None:
    import torch

    model = tiny.load_model()
    mask = torch.ones(16, 4, dtype=torch.bool)
    mask[3, 1] = False
    hold(model, {"0.weight": mask})
    found = scores("lamp", model, tiny, NAMES)
    for name in NAMES:
        squares = [float(value) ** 2 for value in model.get_parameter(name).detach().double().flatten()]
        expected = [square / sum(other for other in squares if other >= square) for square in squares]
        assert found[name].flatten().tolist() == pytest.approx(expected, rel=1e-9)
    assert found["0.weight"][3, 1] == 0
    assert all(float(found[name].max()) == 1 for name in NAMES), "the largest of a layer has none beside it"


def test_each_importance_has_a_score_for_each_weight(tiny: Task) -> None:
    model = tiny.load_model()
    for importance in IMPORTANCES:
        found = scores(importance, model, tiny, NAMES)
        assert list(found) == list(NAMES)
        assert all(found[name].shape == model.get_parameter(name).shape for name in NAMES)
        assert all(bool((found[name] >= 0).all()) for name in NAMES)
