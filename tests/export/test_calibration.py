"""Ranges of activations: what each method keeps of what it has seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from edgedeploy.errors import ExportError
from edgedeploy.export.calibration import Observed, Range, ranges_of
from edgedeploy.records import Calibration, CalibrationMethod

METHODS: tuple[CalibrationMethod, ...] = get_args(CalibrationMethod)
WITH_OUTLIER = np.random.default_rng(0).normal(size=400_000).astype(np.float32)
WITH_OUTLIER[7] = 12.0


def range_of(values: np.ndarray, method: CalibrationMethod, percentile: float = 99.99, levels: int = 256) -> Range:
    calibration = Calibration(method, percentile)
    observed = Observed("x", calibration)
    for part in np.array_split(values, 7):
        observed.see(part)
    return observed.range(calibration, levels)


def squared_error(values: np.ndarray, kept: Range) -> float:
    low, high = kept
    step = (high - low) / 255
    zero = np.rint(-low / step)
    return float(np.mean((((np.rint(values / step) + zero).clip(0, 255) - zero) * step - values) ** 2))


def test_minmax_keeps_all() -> None:
    assert range_of(WITH_OUTLIER, "minmax") == (float(WITH_OUTLIER.min()), 12.0)
    assert range_of(WITH_OUTLIER + 100, "minmax")[0] == 0.0  # zero itself must have a code


def test_the_methods_differ_and_cut_an_outlier_off() -> None:
    kept = {method: range_of(WITH_OUTLIER, method) for method in METHODS}
    assert len(set(kept.values())) == len(METHODS)
    bulk = np.delete(WITH_OUTLIER, 7)
    for method in METHODS[1:]:
        assert 2.0 < kept[method][1] < 7.0, method
        assert squared_error(bulk, kept[method]) < 0.6 * squared_error(bulk, kept["minmax"]), method


def test_mse_has_the_least_squared_error() -> None:
    values = np.random.default_rng(1).standard_t(3, 50_000).astype(np.float32)
    errors = {method: squared_error(values, range_of(values, method, 99.9)) for method in METHODS}
    assert min(errors, key=lambda method: errors[method]) == "mse"
    ideal = min(squared_error(values, (-end, end)) for end in np.linspace(1, float(np.abs(values).max()), 400))
    assert errors["mse"] < 1.02 * ideal


def test_percentile_cuts_off_that_share() -> None:
    values = np.random.default_rng(2).uniform(-1, 1, 100_000).astype(np.float32)
    low, high = range_of(values, "percentile", 90.0)
    assert (low, high) == pytest.approx((-0.9, 0.9), abs=0.01)
    # After a Relu most values are zero, which counts.
    assert range_of(values.clip(min=0), "percentile", 90.0) == pytest.approx((0.0, 0.9), abs=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_ranges_do_not_depend_on_order_or_batches(method: CalibrationMethod) -> None:
    assert range_of(WITH_OUTLIER, method) == range_of(WITH_OUTLIER[::-1].reshape(100, -1), method)


@pytest.mark.parametrize("method", METHODS)
def test_odd_tensors_have_a_range(method: CalibrationMethod) -> None:
    assert range_of(np.zeros((3, 4), np.float32), method) == (0.0, 0.0)
    assert range_of(np.zeros((0, 4), np.float32), method) == (0.0, 0.0)
    low, high = range_of(np.full(9, -2.0, np.float32), method)
    assert (low, high) == pytest.approx((-2.0, 0.0), rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_sixteen_bits_need_no_cut(method: CalibrationMethod) -> None:
    values = np.random.default_rng(3).normal(size=20_000).astype(np.float32)
    low, high = range_of(values, method, 100.0, levels=65536)
    assert (low, high) == pytest.approx((float(values.min()), float(values.max())), rel=0.01)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_tensor_that_is_not_finite_is_named(value: float) -> None:
    with pytest.raises(ExportError, match=r"`attention/add` takes NaN or infinity on the calibration split"):
        Observed("attention/add", Calibration()).see(np.array([1.0, value, 2.0], np.float32))


def test_a_file_is_observed_once_for_each_calibration(tmp_path: Path) -> None:
    calls = []

    def observe() -> Iterator[tuple[str, Observed]]:
        calls.append(1)
        observed = Observed("x", Calibration())
        observed.see(np.array([-1.0, 3.0], np.float32))
        yield "x", observed

    source = tmp_path / "float.onnx"
    assert ranges_of(source, Calibration(), 256, observe) == {"x": (-1.0, 3.0)}
    assert ranges_of(source, Calibration(), 256, observe) == {"x": (-1.0, 3.0)}
    assert len(calls) == 1
    ranges_of(source, Calibration(examples=7), 256, observe)
    assert len(calls) == 2
