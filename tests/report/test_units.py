"""Numbers on the page have three significant digits and a unit."""

from __future__ import annotations

import math

import pytest

from edgedeploy.report import units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.97111, "0.971"),
        (1.0, "1.00"),
        (9.996, "10.0"),
        (99.96, "100"),
        (0.066449, "0.0664"),
        (1234.5, "1,230"),
        (-0.00449, "−0.00449"),
        (3.6e-6, "3.60×10⁻⁶"),
        (-3.6e-6, "−3.60×10⁻⁶"),
        (math.nan, "not a number"),
        (math.inf, "not a number"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert units.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (559_208, "559 kB"), (999_600, "1.00 MB"), (3.1e9, "3.10 GB")],
)
def test_size(value: float, text: str) -> None:
    assert units.size(value) == text


@pytest.mark.parametrize(("value", "text"), [(7, "7"), (132_874, "133 k"), (25_557_032, "25.6 M")])
def test_count(value: float, text: str) -> None:
    assert units.count(value) == text


def test_an_interval_keeps_one_decimal_place_for_all_three() -> None:
    assert units.interval(0.9711, 0.9512, 0.9844) == ("0.971", "0.951 to 0.984")
    assert units.interval(0.0, -0.0044, 0.0089) == ("0.00000", "−0.00440 to 0.00890")
    assert units.interval(1.0, 1.0, 1.0) == ("1.00", "1.00 to 1.00")
    assert units.interval(0.0, 0.0, 0.0) == ("0", "0 to 0")
    assert units.interval(math.nan, 0.1, 0.2) == ("not a number", "0.100 to 0.200")
    assert units.interval(-0.0000001, -0.01, 0.01)[0] == "0.0000"


def test_a_probability_is_never_a_certainty() -> None:
    assert units.percent(1.0) == "over 99.9 %"
    assert units.percent(0.974) == "97.4 %"
