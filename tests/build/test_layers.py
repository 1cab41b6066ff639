"""Zeros, values and bits of a weight, against weights of which they are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgedeploy.build.layers import layer_account, layer_accounts, with_sensitivity
from edgedeploy.compress.findings import PrunedAlone, remember_sensitivity
from edgedeploy.records import LayerAccount, LayerSensitivity

RANDOM = np.random.default_rng(0)
NOISE = RANDOM.normal(size=(32, 64)).astype(np.float32)


def of_levels(count: int) -> np.ndarray:
    """A weight of so many different values, none of them zero."""
    values = np.arange(1, count + 1, dtype=np.float32)
    return np.resize(values, (32, 64))


@pytest.mark.parametrize(("count", "bits"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (16, 4), (17, 5), (256, 8)])
def test_values_that_are_shared_are_numbered(count: int, bits: int) -> None:
    found = layer_account("one", of_levels(count))
    assert (found.distinct, found.bits, found.sparsity) == (count, bits, 0.0)


def test_zero_is_a_value_too() -> None:
    weight = of_levels(16)
    weight[:, :16] = 0.0
    found = layer_account("one", weight)
    assert (found.distinct, found.bits, found.sparsity) == (17, 5, 0.25)


def test_floats_have_no_bits_and_pruning_alone_gives_them_none() -> None:
    assert layer_account("one", NOISE).bits is None
    assert layer_account("one", NOISE).distinct == len(set(NOISE.ravel().tolist()))
    pruned = np.where(RANDOM.random(NOISE.shape) < 0.95, 0.0, NOISE).astype(np.float32)
    found = layer_account("one", pruned)
    assert found.bits is None
    assert found.sparsity == np.count_nonzero(pruned == 0) / pruned.size
    assert layer_account("one", np.zeros((4, 4), np.float32)).bits == 0


def test_a_grid_for_each_channel_counts_by_channel() -> None:
    steps = RANDOM.uniform(0.5, 2.0, size=(32, 1)).astype(np.float32)
    weight = RANDOM.integers(-3, 4, size=(32, 64)).astype(np.float32) * steps
    found = layer_account("one", weight)
    assert found.distinct > 100
    assert found.bits == 3
    transposed = layer_account("one", np.ascontiguousarray(weight.T), axis=1)
    assert (transposed.bits, transposed.shape) == (3, (64, 32))


@pytest.mark.parametrize(("bits", "fan_in"), [(2, 9), (4, 9), (8, 9), (8, 27), (8, 400)])
def test_integers_times_a_step_for_each_channel_need_no_table(bits: int, fan_in: int) -> None:
    most = 2 ** (bits - 1) - 1
    levels = RANDOM.integers(-most, most + 1, size=(16, fan_in)).astype(np.float32)
    levels[0, 0] = most
    assert layer_account("one", levels * RANDOM.uniform(0.01, 0.02, size=(16, 1)).astype(np.float32)).bits == bits


def test_signs_times_a_step_are_one_bit() -> None:
    signs = np.sign(RANDOM.normal(size=(16, 9))).astype(np.float32)
    assert layer_account("one", signs * RANDOM.uniform(0.01, 0.02, size=(16, 1)).astype(np.float32)).bits == 1


@pytest.mark.parametrize("shape", [(1, 64), (64, 1), (16, 1, 3, 3), (4, 3)])
def test_floats_of_any_shape_are_floats(shape: tuple[int, ...]) -> None:
    assert layer_account("one", RANDOM.normal(size=shape).astype(np.float32)).bits is None


def test_weights_are_listed_and_biases_are_not() -> None:
    net = nn.Sequential(
        nn.Embedding(7, 4), nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d(6), nn.GRU(6, 5), nn.MultiheadAttention(8, 2)
    )
    found = {one.layer: one.shape for one in layer_accounts(net)}
    assert found == {
        "0.weight": (7, 4),
        "1.weight": (4, 6, 3),
        "3.weight_ih_l0": (15, 6),
        "3.weight_hh_l0": (15, 5),
        "4.in_proj_weight": (24, 8),
        "4.out_proj.weight": (8, 8),
    }


def test_a_scan_tells_what_a_layer_loses_at_about_the_zeros_that_it_has() -> None:
    net = nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 10))
    with torch.no_grad():
        net.get_parameter("0.weight")[:6] = 0.0
    scan = [PrunedAlone("0.weight", rate, 9.0, drop) for rate, drop in ((0.3, 0.1), (0.5, 0.2), (0.9, 0.3))]
    remember_sensitivity(net, tuple(scan))
    assert [one.sensitivity for one in layer_accounts(net)] == [0.2, None]


def test_what_the_guard_knows_goes_to_the_layer_that_it_knows_it_of() -> None:
    layers = [LayerAccount(name, (2, 2), 0.0, 4, None) for name in ("a.weight", "a.b.weight", "ab.weight", "c")]
    known = [LayerSensitivity("a", 0.1, 0, 0), LayerSensitivity("a.b", 0.2, 0, 0), LayerSensitivity("c", 0.3, 0, 0)]
    assert [one.sensitivity for one in with_sensitivity(layers, known)] == [0.1, 0.2, None, 0.3]
    scanned = [LayerAccount("a.weight", (2, 2), 0.0, 4, None, 0.9)]
    assert with_sensitivity(scanned, known) == tuple(scanned)
    groups = [LayerSensitivity("a to ab", 0.4, 0, 0)]
    assert [one.sensitivity for one in with_sensitivity(layers, groups)] == [None] * 4
