"""Looks into the weights of a compressed net: how many are zero, and how few values the others share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgedeploy.compress.weights import weights
from edgedeploy.records import LayerAccount, LayerSensitivity

if TYPE_CHECKING:
    from torch import nn

_FLOAT_BITS = 32


def layer_accounts(model: nn.Module) -> tuple[LayerAccount, ...]:
    """One for each parameter of two axes or more, in the net's order; biases and normalisation are left out."""
    axes = {name: axis for name, _, axis in weights(model)}
    return tuple(
        layer_account(name, parameter.detach().cpu().numpy(), axes.get(name, 0))
        for name, parameter in model.named_parameters()
        if parameter.ndim >= 2
    )


def layer_account(name: str, weight: np.ndarray, axis: int = 0) -> LayerAccount:
    """What there is to say of one weight whose output channels lie along `axis`."""
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    pays = [bits for bits in (_bits(rows.reshape(1, -1)), _bits(rows)) if bits is not None]
    return LayerAccount(
        layer=name,
        shape=weight.shape,
        sparsity=float((weight == 0).mean()),
        distinct=len(np.unique(weight)),
        bits=min(pays, default=None),
    )


def with_sensitivity(
    layers: Sequence[LayerAccount], sensitivity: Sequence[LayerSensitivity]
) -> tuple[LayerAccount, ...]:
    """The layers with what is known of each by itself; what several layers lose together is no one's."""
    lost = {one.layer: one.drop_recovered for one in sensitivity}
    return tuple(replace(one, sensitivity=lost.get(_owner(one.layer, lost), one.sensitivity)) for one in layers)


def _owner(weight: str, layers: Iterable[str]) -> str:
    """The innermost of the layers that holds a weight; empty where none does."""
    return max((layer for layer in layers if weight == layer or weight.startswith(f"{layer}.")), key=len, default="")


def _bits(rows: np.ndarray) -> int | None:
    """Bits of an index into a table of values for each row; None where tables and indices outweigh the floats.

    Zeros are left out of the sum, for they cost floats nothing once packed: pruning alone shares no values.
    """
    most = table_bits = index_count = 0
    for row in rows:
        values, nonzero = np.unique(row), int((row != 0).sum())
        most = max(most, len(values))
        table_bits += _FLOAT_BITS * int((values != 0).sum())
        index_count += nonzero
    bits = (most - 1).bit_length()  # ceil(log2) of it
    return bits if table_bits + index_count * bits < _FLOAT_BITS * index_count or not index_count else None
