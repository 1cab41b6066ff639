"""Nets whose units cannot be told apart by what reads them are refused in one sentence, and left whole."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from edgedeploy.compress import PruneHiddenUnits
from edgedeploy.errors import CompressionError
from tests.compress.measures import same_weights
from tests.compress.recurrent_nets import FEATURES, HIDDEN, last_step, linear, recurrent, task_of

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.builds


def cells() -> dict[str, Any]:
    from torch import nn

    return {"cell": nn.LSTMCell(FEATURES, HIDDEN), "head": linear()}


def with_attention() -> dict[str, Any]:
    from torch import nn

    return {"layer": recurrent(), "attention": nn.MultiheadAttention(HIDDEN, 2, batch_first=True), "head": linear()}


def tied() -> dict[str, Any]:
    layer = recurrent(features=HIDDEN)
    layer.weight_ih_l0 = layer.weight_hh_l0
    return {"start": recurrent(), "layer": layer, "head": linear()}


def packed(net: Any, rows: torch.Tensor) -> Any:
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    lengths = [rows.shape[1]] * len(rows)
    states, _ = net.layer(pack_padded_sequence(rows, lengths, batch_first=True))
    return net.head(pad_packed_sequence(states, batch_first=True)[0][:, -1])


def one() -> dict[str, Any]:
    return {"layer": recurrent(), "head": linear()}


def two() -> dict[str, Any]:
    return {"layer": recurrent(), "second": recurrent(), "head": linear()}


def products(net: Any, rows: torch.Tensor) -> Any:
    states, _ = net.layer(rows)
    return net.head(((states @ states.transpose(1, 2)).softmax(-1) @ states).mean(1))


REFUSED: dict[str, tuple[Callable[..., Any], Callable[[], Mapping[str, Any]], str]] = {
    "no layer after it": (
        lambda net, rows: net.layer(rows)[0],
        one,
        "the units of layer reach the net's output, or are mixed, with no layer in between whose input could lose them",
    ),
    "its directions added": (
        lambda net, rows: net.head(net.layer(rows)[0].unflatten(-1, (2, HIDDEN)).sum(-2)[:, -1]),
        lambda: {"layer": recurrent(bidirectional=True), "head": linear()},
        "on their way to head units of layer are mixed with each other",
    ),
    "steps weighed by products of states": (products, one, "on their way to head units of layer are mixed"),
    "another added": (
        lambda net, rows: net.head(net.layer(rows)[0][:, -1] + net.second(rows)[0][:, -1]),
        two,
        r"the net no longer runs \(RuntimeError: .*units must not be added to other values",
    ),
    "zero becoming something else": (
        lambda net, rows: net.head(net.layer(rows)[0][:, -1].sigmoid()),
        one,
        "the net computes something else than the full one does with the units of layer silent; .*name the layer in",
    ),
    "an initial state": (
        lambda net, rows: net.head(net.second(rows, net.layer(rows)[1])[0][:, -1]),
        two,
        "the units of layer are the initial state of second",
    ),
    "attention": (
        lambda net, rows: net.head((lambda s: net.attention(s, s, s)[0])(net.layer(rows)[0]).mean(1)),
        with_attention,
        r"the units of layer go into attention \(MultiheadAttention\), which cannot lose single channels",
    ),
    "a packed sequence": (packed, one, "layer gives a PackedSequence, in which units cannot be followed"),
    "a tied weight": (
        lambda net, rows: net.head(net.layer(net.start(rows)[0])[0][:, -1]),
        tied,
        r"layer\.weight_ih_l0 and layer\.weight_hh_l0 are one tied weight",
    ),
    "a constant size": (
        lambda net, rows: net.head(net.layer(rows, rows.new_zeros(1, len(rows), HIDDEN))[0][:, -1]),
        one,
        r"the net no longer runs \(RuntimeError: Expected hidden size .*forward\(\) must take sizes from tensors",
    ),
    "projections": (
        last_step,
        lambda: {"layer": recurrent("LSTM", proj_size=4), "head": linear(4)},
        r"layer has projections \(proj_size is 4\), behind which its units are mixed",
    ),
    "cells": (
        lambda net, rows: net.head(net.cell(rows[:, 0])[0]),
        cells,
        "the net itself carries the state of LSTMCell from step to step.* use nn.RNN, nn.LSTM or nn.GRU instead",
    ),
    "no recurrent layer": (
        lambda net, rows: net.head(rows[:, 0]),
        lambda: {"head": linear(FEATURES)},
        "the net has no nn.RNN, nn.LSTM or nn.GRU; use prune-channels instead",
    ),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_said_and_leaves_the_net_whole(case: str) -> None:
    forward, layers, message = REFUSED[case]
    task = task_of(forward, layers)
    model = task.load_model()
    whole = copy.deepcopy(model)
    with pytest.raises(CompressionError, match=f"prune-hidden-units: .*{message}"):
        PruneHiddenUnits(0.5).apply(model, task)
    assert same_weights(model, whole)
    assert not any(module._forward_hooks for module in model.modules())
