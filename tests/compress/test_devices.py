from pathlib import Path
from typing import Any

import pytest

from edgedeploy.compress import FineTune, QuantiseAware, QuantiseWeights, apply_passes
from edgedeploy.compress.devices import spread
from edgedeploy.compress.training import train_from_scratch
from edgedeploy.errors import CompressionError
from edgedeploy.task import Task, load_task, predict
from tests.compress.measures import same_weights
from tests.support.nets import write_task

pytestmark = pytest.mark.builds

TWO = ("cpu", "cpu")


def gradients(model: Any, inputs: Any, targets: Any, devices: tuple[str, ...]) -> list[Any]:
    import torch

    with spread(model, devices, "a test"):
        loss = torch.nn.functional.cross_entropy(model(inputs), targets)
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("family", ["gru", "transformer"])
def test_gradients_are_those_of_one_device(family: str, trained_gru: Task, trained_transformer: Task) -> None:
    import torch

    task = {"gru": trained_gru, "transformer": trained_transformer}[family]
    model = task.load_model().train()
    inputs, targets = torch.from_numpy(task.train.inputs[0][:25]), torch.from_numpy(task.train.targets[:25])
    one, two, three = (gradients(model, inputs, targets, devices) for devices in ((), TWO, ("cpu",) * 3))
    for expected, *found in zip(one, two, three, strict=True):
        for gradient in found:
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_the_net_sees_its_share_and_the_outputs_come_back_in_order(tiny: Task) -> None:
    model = tiny.load_model()
    seen: list[int] = []
    model.get_submodule("0").register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    expected = predict(model, tiny.test.inputs)
    seen.clear()
    with spread(model, TWO, "a test"):
        found = predict(model, tiny.test.inputs)
        assert predict(model, tuple(array[:1] for array in tiny.test.inputs))[0].shape == (1, 3)
    assert seen == [15, 15, 1]
    assert found[0] == pytest.approx(expected[0], abs=1e-6)
    assert "forward" not in vars(model)


def test_several_outputs_come_back_as_they_were() -> None:
    import torch

    class Two(torch.nn.Module):
        def forward(self, one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
            return one + other, [one - other]

    one, other = torch.rand(5, 2), torch.rand(5, 2)
    net = Two()
    with spread(net, TWO, "a test"):
        together, [apart] = net(one, other)
    assert torch.equal(together, one + other)
    assert torch.equal(apart, one - other)


def test_running_statistics_follow_the_first_share() -> None:
    import torch

    inputs = torch.rand(10, 4)
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(4, momentum=1.0)).train()
    with spread(net, TWO, "a test"):
        net(inputs)
    assert torch.allclose(net.get_buffer("0.running_mean"), inputs[:5].mean(0))
    assert int(net.get_buffer("0.num_batches_tracked")) == 1


@pytest.mark.parametrize("kind", [FineTune, QuantiseWeights])
def test_a_pass_trains_alike_on_two(tiny: Task, kind: Any) -> None:
    import torch

    more = {"bits": 4} if kind is QuantiseWeights else {}
    settings = {"batch_size": 20, "optimiser": "sgd", "weight_decay": 0.0, **more}
    one = apply_passes(tiny.load_model(), [kind(2, 0.01, **settings)], tiny)
    two, again = (apply_passes(tiny.load_model(), [kind(2, 0.01, devices=TWO, **settings)], tiny) for _ in range(2))
    assert same_weights(two, again)
    assert not same_weights(two, tiny.load_model())
    for expected, found in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_no_share_of_one_stops_batch_normalisation(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path, ("nn.ReLU()", "nn.BatchNorm1d(16)"), ('"train": 60', '"train": 63')), None)
    train_from_scratch(task, FineTune(1, batch_size=20, devices=TWO))


@pytest.mark.parametrize("name", ["cuda:97", "gpu", "meta:x"])
def test_a_device_that_is_not_there_is_named(tiny: Task, name: str) -> None:
    message = f"fine-tune: devices names '{name}', which is not on this machine; these are: cpu"
    with pytest.raises(CompressionError, match=message):
        apply_passes(tiny.load_model(), [FineTune(1, devices=("cpu", name))], tiny)


def test_a_traced_net_trains_on_two(tiny: Task) -> None:
    settings = QuantiseAware(2, 0.01, devices=TWO)
    two, again = (apply_passes(tiny.load_model(), [settings], tiny) for _ in range(2))
    assert same_weights(two, again)
    assert not same_weights(two, apply_passes(tiny.load_model(), [QuantiseAware(1, 1e-9)], tiny))
