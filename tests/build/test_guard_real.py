"""The guard on what the exporters really write."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedeploy import export
from edgedeploy.build.guard import Guard
from edgedeploy.errors import AccuracyError
from edgedeploy.evaluate import evaluate, evaluate_model
from edgedeploy.records import Format, Precision, Target
from tests.build.nets import LAYERS, copies

pytestmark = pytest.mark.builds


@pytest.mark.parametrize("file_format", Format)
def test_the_layer_that_eight_bits_ruin_is_given_back(tmp_path: Path, file_format: Format) -> None:
    net, task = copies("second")
    float_file = export.convert(net, file_format, task, tmp_path)
    assert export.layers(float_file) == LAYERS
    source = evaluate_model(net, task, "selection")
    held = Guard(float_file, Target(file_format, Precision.INT8), source, 0.01, tmp_path).export()
    assert held.kept_float == ("second",)
    assert held.sensitivity[0].drop_recovered > 0.5
    assert evaluate(held.exported.path, held.exported.contract, task, "test").quality.value == 1.0
    plain = export.quantise(float_file, Target(file_format, Precision.INT8), task, tmp_path)
    assert evaluate(plain.path, plain.contract, task, "test").quality.value < 0.5


def test_a_hopeless_net_is_refused(tmp_path: Path) -> None:
    net, task = copies(*LAYERS)
    float_file = export.convert(net, Format.ONNX, task, tmp_path)
    source = evaluate_model(net, task, "selection")
    with pytest.raises(AccuracyError, match="no layer that stays in float mends it") as raised:
        Guard(float_file, Target(Format.ONNX, Precision.INT8), source, 0.01, tmp_path).export()
    assert sorted(line.split()[0] for line in str(raised.value).splitlines()[1:]) == sorted(LAYERS)
