"""What a TFLite file holds, and the traps on the way to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert.tools import flatbuffer_utils
from torch import nn

from edgedeploy import export
from edgedeploy.errors import ExportError, ParityError
from edgedeploy.on_device.runtimes import open_model
from edgedeploy.records import Format, Precision, Target
from tests.export.conftest import Make
from tests.export.nets import make_task

pytestmark = pytest.mark.builds


def target(precision: Precision) -> Target:
    return Target(Format.TFLITE, precision)


@pytest.mark.parametrize("precision", Precision)
def test_only_inputs_and_outputs_keep_a_name(make: Make, precision: Precision) -> None:
    content = make("transformer", target(precision)).exported.path.read_bytes()
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    [graph] = model.subgraphs
    assert sorted(tensor.name for tensor in graph.tensors if tensor.name) == [b"input", b"output"]
    [signature] = model.signatureDefs
    assert [entry.name for entry in (*signature.inputs, *signature.outputs)] == [b"input", b"output"]


def test_integer_inputs_and_outputs_go_through_the_contract(make: Make) -> None:
    case = make("cnn", target(Precision.INT8))
    [entry], [result] = case.exported.contract["inputs"], case.exported.contract["outputs"]
    model = open_model(str(case.exported.path), case.exported.contract)
    images = case.task.test.inputs[0][:1]
    model.prepare([images])
    stored = model.prepare.__self__._interpreter.get_tensor(0)  # type: ignore[attr-defined]
    assert stored.dtype == np.int8
    assert np.array_equal(stored, np.rint(images / entry["scale"]) + entry["zero_point"])
    [output] = model.run([images])
    steps = output / result["scale"] + result["zero_point"]
    assert output.dtype == np.float32
    assert np.allclose(steps, np.rint(steps), atol=1e-3)
    assert -128 <= steps.min() < steps.max() <= 127


class Many(nn.Module):
    """Two kinds of input and twelve outputs, most of one shape: only their order tells them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.layer = nn.Linear(8, 3)

    def forward(self, values: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = self.layer(values + self.embedding(tokens).mean(1))
        return (*(result * factor for factor in range(1, 12)), values - 1.0)


@pytest.mark.parametrize(
    ("file_format", "precision"),
    [(Format.ONNX, Precision.FP32), (Format.ONNX, Precision.INT8)] + [(Format.TFLITE, p) for p in Precision],
)
def test_many_inputs_and_outputs_keep_their_order(tmp_path: Path, file_format: Format, precision: Precision) -> None:
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(400, 8)).astype(np.float32), generator.integers(0, 10, (400, 4))
    task, model, wanted = make_task(Many, inputs), Many(), Target(file_format, precision)
    exported = export.export(model, wanted, task, tmp_path)
    assert [tensor["name"] for tensor in exported.contract["inputs"]] == ["input_0", "input_1"]
    assert [tensor["name"] for tensor in exported.contract["outputs"]] == [f"output_{i}" for i in range(12)]
    assert [tensor["shape"][1:] for tensor in exported.contract["outputs"]] == [[3]] * 11 + [[8]]
    assert export.check_parity(exported, wanted, task).relative_rms_error < (0.1 if precision is Precision.W4 else 0.05)
    # Two of them exchanged would not have gone unnoticed.
    outputs = exported.contract["outputs"]
    outputs[2], outputs[10] = outputs[10], outputs[2]
    with pytest.raises(ParityError, match="strays from the net"):
        export.check_parity(exported, wanted, task)


def test_one_tensor_returned_twice_is_refused(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            result = self.layer(values)
            return result, result

    task = make_task(Twice, (np.ones((8, 8), np.float32),))
    with pytest.raises(ExportError, match="output_0 and output_1 of the net are one tensor"):
        export.export(Twice(), target(Precision.FP32), task, tmp_path)
    assert not list(tmp_path.iterdir())
