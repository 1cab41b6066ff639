"""A board that computes something else is found out; a number is given wherever there is one."""

from __future__ import annotations

import numpy as np
import pytest

from edgedeploy.on_device.comparing import compare

HOST = [np.array([[0.0, 10.0], [5.0, -10.0]], np.float32)]


def board(*rows: list[float]) -> list[list[np.ndarray]]:
    return [[np.array([row], np.float32)] for row in rows]


def test_equal_outputs_have_no_error() -> None:
    assert compare(board([0, 10], [5, -10]), HOST, 0.0) == (0.0, "")


def test_the_error_is_relative_to_the_range() -> None:
    error, trouble = compare(board([0, 10], [5, -9]), HOST, 0.06)
    assert error == pytest.approx(1 / 20)
    assert trouble == ""
    error, trouble = compare(board([0, 10], [5, -9]), HOST, 0.04)
    assert error == pytest.approx(1 / 20)
    assert "stray from the host's by 0.05 of their range; 0.04 is allowed" in trouble


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_a_mismatch_without_a_number(value: float) -> None:
    error, trouble = compare(board([0, value], [5, -10]), HOST, 1e9)
    assert error is None
    assert "holds 1 values that are NaN or infinite" in trouble


def test_another_shape_is_a_mismatch() -> None:
    error, trouble = compare(board([0, 10, 1], [5, -10, 1]), HOST, 1.0)
    assert error is None
    assert "shape [2, 3], on the host [2, 2]" in trouble


def test_the_worst_output_counts_and_a_constant_one_has_a_scale_too() -> None:
    host = [np.zeros((1, 2)), np.full((1, 2), 4.0)]
    error, _ = compare([[np.zeros((1, 2)), np.full((1, 2), 5.0)]], host, 1.0)
    assert error == pytest.approx(0.25)
    error, _ = compare([[np.full((1, 2), 0.5), np.full((1, 2), 4.0)]], host, 1.0)
    assert error == pytest.approx(0.5)


def test_a_probe_that_is_not_finite_cannot_be_met() -> None:
    error, trouble = compare([[np.zeros((1, 1))]], [np.full((1, 1), np.nan)], 1.0)
    assert error is None
    assert "not finite" in trouble
