"""What an ONNX file holds, and the traps on the way to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import repeat
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgedeploy import export
from edgedeploy.errors import ExportError
from edgedeploy.export import FloatFile
from edgedeploy.export import onnx as exporter
from edgedeploy.export.contract import build_contract
from edgedeploy.exported_file import run_exported
from edgedeploy.records import Format, Precision, Target
from edgedeploy.task import Task
from tests.export.conftest import Make
from tests.export.nets import make_task

pytestmark = pytest.mark.builds


def target(precision: Precision) -> Target:
    return Target(Format.ONNX, precision)


@pytest.mark.parametrize("precision", Precision)
def test_nothing_is_in_the_file_that_no_runtime_reads(make: Make, precision: Precision) -> None:
    model = onnx.load(make("transformer", target(precision)).exported.path)
    contributed = {"com.microsoft": 1} if precision is Precision.INT16X8 else {}  # 16 bits are not in this opset
    assert model.ir_version == 8
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 18, **contributed}
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string or node.name for node in model.graph.node)
    assert b"torch" not in model.graph.SerializeToString()
    assert b"encoder" not in model.graph.SerializeToString()  # the names of the net's modules
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True)


def test_fp16_keeps_float32_at_its_edges(make: Make) -> None:
    graph = onnx.load(make("gru", target(Precision.FP16)).exported.path).graph
    edges = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    assert edges == {onnx.TensorProto.FLOAT}
    assert onnx.TensorProto.FLOAT16 in {tensor.data_type for tensor in graph.initializer}
    assert onnx.TensorProto.FLOAT not in {tensor.data_type for tensor in graph.initializer}


class NormsFirst(nn.Module):
    """Puts time first after a norm, for three layers at once, and for its output too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.query, self.key, self.value = (nn.Linear(8, 8, bias=False) for _ in range(3))
        self.head = nn.Linear(8, 4, bias=False)

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        turned = self.norm(rows).transpose(0, 1)
        mixed = self.head(torch.tanh(self.query(turned)) * self.key(turned) + self.value(turned))
        return mixed.transpose(0, 1), turned.amax(0)


@pytest.mark.parametrize("kept", [[], ["key"]])
def test_fp16_of_a_product_with_what_was_transposed(tmp_path: Path, kept: list[str]) -> None:
    torch.manual_seed(0)
    net = NormsFirst().eval()
    task = make_task(lambda: net, (np.random.default_rng(0).normal(size=(32, 5, 8)).astype(np.float32),))
    source = export.convert(net, Format.ONNX, task, tmp_path)
    exported = export.quantise(source, target(Precision.FP16), task, tmp_path, kept)
    assert export.check_parity(exported, target(Precision.FP16), task).relative_rms_error < 1e-3


class TiedLanguageModel(nn.Module):
    """Its embedding is its last layer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 16)
        self.middle = nn.Linear(16, 16)
        self.head = nn.Linear(16, 30, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.middle(self.embedding(tokens)).relu().mean(1))
        return logits


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Task, Callable[[Format], FloatFile]]:
    torch.manual_seed(0)
    task = make_task(TiedLanguageModel, (np.random.default_rng(0).integers(0, 30, (400, 6)),))
    model = TiedLanguageModel()
    return task, cache(lambda kind: export.convert(model, kind, task, tmp_path_factory.mktemp("tied")))


@pytest.mark.parametrize(
    ("file_format", "precision"),
    [
        *((Format.ONNX, precision) for precision in Precision),
        *((Format.TFLITE, precision) for precision in (Precision.FP32, Precision.FP16, Precision.INT8)),
    ],
)
def test_tied_weights(
    tied: tuple[Task, Callable[[Format], FloatFile]], tmp_path: Path, file_format: Format, precision: Precision
) -> None:
    task, converted = tied
    wanted = Target(file_format, precision)
    exported = export.quantise(converted(file_format), wanted, task, tmp_path)
    measured = export.check_parity(exported, wanted, task)
    assert measured.relative_rms_error < (0.15 if precision is Precision.W4 else 0.05)
    assert exported.contract["inputs"][0]["real_type"] == "int64"
    assert exported.contract["inputs"][0]["type"] == ("int64" if file_format is Format.ONNX else "int32")


def test_stale_shapes_are_gone_before_anything_is_quantised(make: Make) -> None:
    case = make("gru", target(Precision.FP32))
    assert not exporter._convert(case.model, case.task).graph.value_info


def test_sizes_that_meet_under_two_names_are_written_down(make: Make) -> None:
    # Without them onnxruntime 1.31 crashes on this very file.
    graph = onnx.load(make("transformer", target(Precision.FP16)).exported.path).graph
    assert graph.value_info


def test_calibration_sees_the_calibration_split_alone(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(400, 8)).astype(np.float32)
    inputs[1::4] *= 100.0  # the calibration split, as make_task cuts it
    task = make_task(lambda: nn.Linear(8, 4), (inputs,))
    export.export(task.model(), target(Precision.INT8), task, tmp_path)
    graph = onnx.load(tmp_path / "model.onnx").graph
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear")
    [scale] = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name == first.input[1]]
    seen = task.calibration.inputs[0][np.unique(np.linspace(0, 99, 100).astype(int))]
    assert float(scale) == pytest.approx(float(seen.max() - seen.min()) / 255, rel=1e-3)


def test_a_frozen_batch_axis_does_not_pass(tmp_path: Path) -> None:
    weights = onnx.numpy_helper.from_array(np.ones((8, 4), np.float32), "weights")
    shape = [onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, [1, 8])]
    result = [onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, [1, 4])]
    node = onnx.helper.make_node("MatMul", ["input", "weights"], ["output"])
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "frozen", shape, result, [weights]),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=8,
    )
    onnx.save(model, tmp_path / "frozen.onnx")
    inputs, outputs = exporter.describe(tmp_path / "frozen.onnx")
    contract = {"format": "onnx", "inputs": inputs, "outputs": outputs}
    assert inputs[0]["shape"] == [1, 8]  # which run_exported takes one by one
    two = (np.ones((2, 8), np.float32),)
    assert run_exported(tmp_path / "frozen.onnx", contract, two, repeat(2))[0].shape == (2, 4)
    task = make_task(lambda: nn.Linear(8, 4), (np.ones((8, 8), np.float32),))
    with pytest.raises(ExportError, match="batch axis of 1, not of any size"):
        build_contract(target(Precision.FP32), inputs, outputs, task, (np.ones((2, 4), np.float32),))
