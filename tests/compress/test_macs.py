"""Multiply-accumulates against numbers that were worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgedeploy.compress.macs import count_macs
from tests.compress.measures import layer

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.builds


def encoder_layer() -> Any:
    from torch import nn

    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2, enable_nested_tensor=False)


def attention(function: Callable[..., Any]) -> Any:
    from torch import nn

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return function(x)

    return Net()


def spelled_out(x: torch.Tensor) -> Any:
    return (x @ x.transpose(-1, -2)).softmax(-1) @ x


def fused(x: torch.Tensor) -> Any:
    from torch.nn import functional as F

    return F.scaled_dot_product_attention(x, x, x)


# Per step of a recurrent layer: gates x hidden x (inputs + hidden).
ENCODER = 2 * (6 * 16 * (4 * 16 + 2 * 32) + 2 * 6 * 6 * 16)
CASES: dict[str, tuple[Callable[[], Any], tuple[int, ...], int]] = {
    "linear": (layer("Linear", 4, 7), (4,), 4 * 7),
    "linear over steps": (layer("Linear", 4, 7), (5, 4), 5 * 4 * 7),
    "convolution": (layer("Conv2d", 3, 8, 3, padding=1, stride=2), (3, 10, 10), 5 * 5 * 8 * 3 * 9),
    "depthwise": (layer("Conv2d", 8, 8, 3, padding=1, groups=8), (8, 6, 6), 36 * 8 * 9),
    "convolution over time": (layer("Conv1d", 3, 8, 3), (3, 10), 8 * 8 * 3 * 3),
    "transposed": (layer("ConvTranspose2d", 4, 6, 2, stride=2), (4, 5, 5), 25 * 4 * 6 * 4),
    "rnn": (layer("RNN", 5, 6, batch_first=True), (7, 5), 7 * 6 * (5 + 6)),
    "lstm": (layer("LSTM", 5, 6, batch_first=True), (7, 5), 7 * 4 * 6 * (5 + 6)),
    "gru": (layer("GRU", 5, 6, batch_first=True), (7, 5), 7 * 3 * 6 * (5 + 6)),
    "two bidirectional layers": (
        layer("LSTM", 5, 6, 2, batch_first=True, bidirectional=True),
        (7, 5),
        2 * 7 * 4 * 6 * ((5 + 6) + (12 + 6)),
    ),
    "encoder": (encoder_layer, (6, 16), ENCODER),
    "attention spelled out": (lambda: attention(spelled_out), (4, 6, 16), 2 * 4 * 6 * 6 * 16),
    "attention in one call": (lambda: attention(fused), (4, 6, 16), 2 * 4 * 6 * 6 * 16),
    "elementwise": (layer("Sequential"), (4,), 0),
}


@pytest.mark.parametrize("case", CASES)
def test_it_agrees_with_the_hand(case: str) -> None:
    make, shape, expected = CASES[case]
    net = make()
    assert count_macs(net, (np.ones((1, *shape), np.float32),)) == expected
    assert count_macs(net, (np.ones((3, *shape), np.float32),)) == expected, "of one example, however many are given"


def test_an_embedding_costs_nothing_and_two_inputs_are_taken() -> None:
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, tokens: torch.Tensor, scale: torch.Tensor) -> Any:
            return self.head(self.embed(tokens).mean(1)) * scale

    inputs = (np.ones((2, 5), np.int64), np.ones((2, 1), np.float32))
    assert count_macs(Net(), inputs) == 8


def test_products_with_a_vector_count() -> None:
    import torch

    net = attention(lambda x: (torch.eye(3, 4) @ x[0] + torch.addmv(x[0, :3], torch.eye(3, 4), x[0])) * x[0].dot(x[0]))
    assert count_macs(net, (np.ones((1, 4), np.float32),)) == 12 + 12 + 4


def test_counting_leaves_no_trace() -> None:
    import torch
    from torch import nn

    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4))
    net.train()
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fast = torch.backends.mha.get_fastpath_enabled()
    count_macs(net, (np.ones((2, 4), np.float32),))
    assert net.training
    assert not net[1].training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert torch.backends.mkldnn.enabled


def test_half_the_units_of_a_wide_layer_are_a_quarter_of_its_work() -> None:
    wide, narrow = (layer("GRU", w, w, batch_first=True)() for w in (64, 32))
    counts = [count_macs(net, (np.ones((1, 4, w), np.float32),)) for net, w in ((wide, 64), (narrow, 32))]
    assert math.isclose(counts[0] / counts[1], 4)
