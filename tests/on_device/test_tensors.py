"""Quantising as the contract says, at the edges of the range too."""

from __future__ import annotations

import numpy as np
import pytest

from edgedeploy.on_device.tensors import from_file, static_batch, to_file
from tests.on_device.models import tensor


@pytest.mark.parametrize(("kind", "low", "high"), [("int8", -128, 127), ("uint8", 0, 255), ("int16", -32768, 32767)])
def test_quantising_clips_to_the_type(kind: str, low: int, high: int) -> None:
    described = tensor("t", [1], kind, scale=0.5, zero_point=3)
    steps = to_file(np.array([-1e9, -1.0, 0.0, 1.0, 1e9], np.float32), described)
    assert steps.dtype == np.dtype(kind)
    assert steps.tolist() == [low, max(low, 1), 3, 5, high]


def test_there_and_back_loses_less_than_half_a_step() -> None:
    described = tensor("t", [1], "int8", scale=0.02, zero_point=-7)
    values = np.linspace(-2.4, 2.6, 301, dtype=np.float32)
    back = from_file(to_file(values, described), described)
    assert back.dtype == np.float32
    assert np.abs(back - values).max() <= 0.0101


def test_without_a_scale_only_the_type_changes() -> None:
    described = tensor("t", [1], "float16")
    stored = to_file(np.array([1.5, 2.0]), described)
    assert stored.dtype == np.float16
    assert from_file(stored, described).dtype == np.float32
    indices = tensor("t", [1], "int32", real_type="int64")
    assert from_file(to_file(np.array([3], np.int64), indices), indices).dtype == np.int64


def test_static_batch_is_the_first_axis() -> None:
    assert static_batch({"inputs": [tensor("x", [None, 8])]}) is None
    assert static_batch({"inputs": [tensor("x", [1, 8])]}) == 1
