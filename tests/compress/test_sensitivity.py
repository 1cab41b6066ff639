from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from edgedeploy.compress.findings import PrunedAlone
from edgedeploy.compress.sensitivity import RATES, largest, layers, rates_under, scan
from edgedeploy.compress.weights import weights
from edgedeploy.errors import CompressionError, NothingToDo
from edgedeploy.task import Split, Task
from tests.compress.measures import same_weights

pytestmark = pytest.mark.builds


def test_each_layer_alone_is_pruned_and_given_back(tiny: Task) -> None:
    import torch
    from torch.nn import functional as F

    model = tiny.load_model()
    found = scan(model, tiny, (0.0, 0.5))
    assert same_weights(model, tiny.load_model()), "to the bit"
    assert [(one.layer, one.sparsity) for one in found] == [
        *(("0.weight", rate) for rate in (0.0, 0.5)),
        *(("2.weight", rate) for rate in (0.0, 0.5)),
    ]
    rows, targets = torch.from_numpy(tiny.calibration.inputs[0]), torch.from_numpy(tiny.calibration.targets)
    before = model(rows).detach()
    for one in found:
        by_hand = tiny.load_model()
        weight = by_hand.get_parameter(one.layer).data
        flat = sorted(range(weight.numel()), key=lambda place: abs(float(weight.flatten()[place])))
        for place in flat[: round(one.sparsity * weight.numel())]:
            weight.view(-1)[place] = 0.0
        after = by_hand(rows).detach()
        rise = F.cross_entropy(after, targets) - F.cross_entropy(before, targets)
        lost = (before.argmax(1) == targets).double().mean() - (after.argmax(1) == targets).double().mean()
        assert one.loss_rise == pytest.approx(float(rise), abs=1e-5)
        assert one.drop == pytest.approx(float(lost), abs=1e-9)


@pytest.mark.parametrize("family", ["trained_cnn", "trained_gru", "trained_transformer"])
def test_a_scan_tells_every_layer_of_each_family(family: str, request: pytest.FixtureRequest) -> None:
    task: Task = request.getfixturevalue(family)
    names = [name for name, _, _ in weights(task.load_model())]
    found = scan(task.load_model(), task, (0.3, 0.95), only=names[-2:])
    assert [one.layer for one in found] == [name for name in names[-2:] for _ in range(2)]
    mild, strong = ([one.loss_rise for one in found if one.sparsity == rate] for rate in (0.3, 0.95))
    assert sum(strong) > sum(mild) + 0.1
    assert found == scan(task.load_model(), task, (0.3, 0.95), only=names[-2:])


def test_neither_selection_nor_test_data_is_looked_at(tiny: Task) -> None:
    nothing = Split((np.full((3, 4), np.nan, dtype=np.float32),), np.zeros(3, dtype=np.int64))
    blind = dataclasses.replace(tiny, selection=nothing, test=nothing)
    assert scan(blind.load_model(), blind) == scan(tiny.load_model(), tiny)
    assert len(scan(tiny.load_model(), tiny)) == 2 * len(RATES)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, math.nan])
def test_rates_lie_from_0_to_below_1(tiny: Task, rate: float) -> None:
    with pytest.raises(ValueError, match=f"rates hold {rate}; each must be at least 0 and below 1"):
        scan(tiny.load_model(), tiny, (0.5, rate))


def test_layers_are_named_or_refused(tiny: Task) -> None:
    from torch import nn

    assert layers(tiny.load_model(), "a-pass", ["2"], []) == ["2.weight"]
    with pytest.raises(CompressionError, match="sensitivity: skip names 'head'"):
        scan(tiny.load_model(), tiny, skip=["head"])
    with pytest.raises(NothingToDo, match="a-pass: the net has no convolution"):
        layers(nn.ReLU(), "a-pass", [], [])


def test_the_largest_stay_and_one_at_least() -> None:
    import torch

    weight = torch.tensor([[0.1, -3.0], [0.0, 2.0]])
    assert largest(weight, 0.5).tolist() == [[False, True], [False, True]]
    assert largest(weight, 0.99).tolist() == [[False, True], [False, False]]
    assert int(largest(torch.full((10,), 0.5), 0.3).sum()) == 7, "equal magnitudes do not spoil the count"


def test_a_layer_gets_the_highest_rate_below_the_threshold_that_no_milder_one_breaks() -> None:
    rises = {"a": (0.1, 0.2, 0.3), "b": (0.1, 0.9, 0.15), "c": (0.5, 0.6, math.inf)}
    found = [PrunedAlone(name, rate, rise, 0.0) for name, row in rises.items() for rate, rise in enumerate(row, 1)]
    assert rates_under(found, 0.25) == {"a": 2, "b": 1, "c": 0}
    assert rates_under(found[::-1], 0.25) == {"a": 2, "b": 1, "c": 0}
    assert rates_under(found, 1.0) == {"a": 3, "b": 3, "c": 2}
