"""Looks into the weights of a compressed net: how many are zero, and how few bits the others need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgedeploy.compress.findings import PrunedAlone, sensitivity_of
from edgedeploy.compress.weights import weights
from edgedeploy.records import LayerAccount, LayerSensitivity

if TYPE_CHECKING:
    from torch import nn

_FLOAT_BITS = 32
_MOST_STEPS = 127  # of int8, on each side of zero
_ROUNDING = 2e-4  # in steps: far above that of float32, far below chance


def layer_accounts(model: nn.Module) -> tuple[LayerAccount, ...]:
    """One for each parameter of two axes or more, in the net's order; biases and normalisation are left out."""
    axes = {name: axis for name, _, axis in weights(model)}
    found = (
        layer_account(name, parameter.detach().cpu().numpy(), axes.get(name, 0))
        for name, parameter in model.named_parameters()
        if parameter.ndim >= 2
    )
    scan = sensitivity_of(model)
    return tuple(replace(one, sensitivity=_lost_by_zeros(one, scan)) for one in found)


def layer_account(name: str, weight: np.ndarray, axis: int = 0) -> LayerAccount:
    """What there is to say of one weight whose output channels lie along `axis`."""
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    return LayerAccount(
        layer=name,
        shape=weight.shape,
        sparsity=float((weight == 0).mean()),
        distinct=len(np.unique(weight)),
        bits=_bits(rows),
    )


def with_sensitivity(
    layers: Sequence[LayerAccount], sensitivity: Sequence[LayerSensitivity]
) -> tuple[LayerAccount, ...]:
    """The layers with what the accuracy guard knows of each by itself, where no pass has asked before.

    What several layers lose together is no one's.
    """
    lost = {one.layer: one.drop_recovered for one in sensitivity}
    return tuple(
        replace(one, sensitivity=lost.get(_owner(one.layer, lost))) if one.sensitivity is None else one
        for one in layers
    )


def _lost_by_zeros(layer: LayerAccount, scan: Sequence[PrunedAlone]) -> float | None:
    """The drop at that rate of a scan which is nearest to the zeros that the layer has now."""
    tried = [one for one in scan if one.layer == layer.layer]
    return min(tried, key=lambda one: abs(one.sparsity - layer.sparsity)).drop if tried else None


def _owner(weight: str, layers: Iterable[str]) -> str:
    """The innermost of the layers that holds a weight; empty where none does."""
    return max((layer for layer in layers if weight == layer or weight.startswith(f"{layer}.")), key=len, default="")


def _bits(rows: np.ndarray) -> int | None:
    """Bits of a value in the cheapest code that is smaller than floats; None where there is none.

    Zeros are left out of the sum, for they cost floats nothing once packed: pruning alone shares no values.
    """
    nonzero = np.count_nonzero(rows)
    if not nonzero:
        return 0
    codes = [code for code in (_table(rows.reshape(1, -1)), _table(rows), _grid(rows)) if code is not None]
    total_bits, bits = min((extra_bits + nonzero * bits, bits) for extra_bits, bits in codes)
    return bits if total_bits < _FLOAT_BITS * nonzero else None


def _table(rows: np.ndarray) -> tuple[int, int]:
    """Bits of a table of values for each row, and of an index into it."""
    values = [np.unique(row) for row in rows]
    stored = sum(int(np.count_nonzero(found)) for found in values)
    return _FLOAT_BITS * stored, _index_bits(max(len(found) for found in values))


def _grid(rows: np.ndarray) -> tuple[int, int] | None:
    """Bits of a step for each row, and of an integer that counts steps; None where some row has no such step."""
    most = 0
    for row in rows:
        peak = np.abs(row).max()
        if not peak:
            continue
        shares = row.astype(np.float64) / peak
        steps = next((n for n in range(1, _MOST_STEPS + 1) if _near_integers(shares * n)), None)
        if steps is None:
            return None
        most = max(most, steps)
    signs_alone = most == 1 and np.count_nonzero(rows) == rows.size
    return _FLOAT_BITS * len(rows), 1 if signs_alone else _index_bits(2 * most + 1)


def _near_integers(values: np.ndarray) -> bool:
    return bool((np.abs(values - np.rint(values)) < _ROUNDING).all())


def _index_bits(count: int) -> int:
    return (count - 1).bit_length()  # ceil(log2) of it
