"""What `show` says of a variant beyond its figures."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgedeploy.cli import output
from edgedeploy.pipeline import Shown
from edgedeploy.records import LayerSensitivity
from tests.support.records import make_variant

if TYPE_CHECKING:
    import pytest

CONTRACT: dict[str, Any] = {"inputs": [], "outputs": []}


def test_layers_that_stay_in_float_are_named_with_what_they_buy(capsys: pytest.CaptureFixture[str]) -> None:
    sensitivity = (LayerSensitivity("head", 0.0133, 0.21, 3.14), LayerSensitivity("[stem]", 0.0, -0.01, -0.2))
    held = replace(make_variant(), kept_float=("head",), sensitivity=sensitivity)
    output.shown(Shown(held, CONTRACT, (), {}), as_json=False)
    text = " ".join(capsys.readouterr().out.split())
    assert "in float head, given back by the accuracy guard" in text
    assert "layer head: in float recovers +0.0133 of the metric and 0.21 of the outputs' error, for +3.1 us" in text
    assert "layer [stem]: in float recovers 0 of the metric and -0.01 of the outputs' error, for -0.2 us" in text
    output.shown(Shown(make_variant(), CONTRACT, (), {}), as_json=False)
    assert "in float" not in capsys.readouterr().out


def test_where_a_precision_saves_bytes_alone_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    output.shown(Shown(make_variant(), CONTRACT, (), {"desk": "no halves"}), as_json=False)
    assert "storage only on desk: no halves" in " ".join(capsys.readouterr().out.split())
