"""A file that was damaged in one layer is seen to stray there, and a whole one nowhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgedeploy import export
from edgedeploy.errors import ExportError
from edgedeploy.export import EXPORTERS, FloatFile
from edgedeploy.export.flatbuffer import is_constant, read, write
from edgedeploy.export.layer_errors import LayerErrors, compare_layers, layer_errors
from edgedeploy.records import Calibration, Format, Precision, Target
from edgedeploy.task import Task, load_task
from tests.export.nets import make_task
from tests.support.sources import save_onnx, write_task

pytestmark = pytest.mark.builds


class Net(nn.Module):
    """Three layers of weights that no exporter folds together, and batch norms that every one folds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4 * 6 * 6, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.second(self.first(images)).flatten(1))
        return logits


@pytest.fixture(scope="module")
def task() -> Task:
    torch.manual_seed(0)
    net = Net().eval()
    images = np.random.default_rng(0).normal(size=(64, 2, 6, 6)).astype(np.float32)
    return make_task(lambda: net, (images,))


@pytest.fixture(scope="module")
def converted(task: Task, tmp_path_factory: pytest.TempPathFactory) -> dict[Format, FloatFile]:
    return {one: export.convert(task.model(), one, task, tmp_path_factory.mktemp(one)) for one in Format}


def by_layer(errors: LayerErrors) -> dict[str, float | None]:
    return {one.layer: one.relative_rms_error for one in errors.layers}


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.INT8])
@pytest.mark.parametrize("file_format", Format)
def test_a_whole_file_strays_nowhere(
    task: Task, converted: dict[Format, FloatFile], tmp_path: Path, file_format: Format, precision: Precision
) -> None:
    calibration = Calibration(examples=16) if precision.calibrated else None
    target = Target(file_format, precision, calibration=calibration)
    source, exporter = converted[file_format], EXPORTERS[file_format]
    exporter.quantise(source.path, target, task, tmp_path / "file", ())
    content = exporter.named(source.path, target, task, ())
    assert exporter.strip(content) == (tmp_path / "file").read_bytes()
    errors = layer_errors(task.model(), target, task, source, content)
    found = by_layer(errors)
    assert list(found) == [f"{part}.{i}" for part in ("first", "second") for i in range(3)] + ["head"]
    known = [error for error in found.values() if error is not None]
    assert found["first.2"] is not None
    assert found["head"] is not None
    assert max(known) <= errors.tolerance
    assert (min(known) > 1e-5) is (precision is not Precision.FP32)  # float tensors under another name would be closer
    assert errors.first_above is None
    assert errors.source == "the net"
    folded = [one.why for one in errors.layers if one.relative_rms_error is None]
    assert folded
    assert all("folded into another layer" in why for why in folded)


def damaged(content: bytes, file_format: Format) -> bytes:
    """The file with the weights of its second convolution turned round."""
    if file_format is Format.ONNX:
        proto = onnx.load_from_string(content)
        [_, second] = [node for node in proto.graph.node if node.op_type == "Conv"]
        [weight] = [tensor for tensor in proto.graph.initializer if tensor.name == second.input[1]]
        weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), weight.name))
        return bytes(proto.SerializeToString())
    model = read(content)
    graph = model.subgraphs[0]
    kernels = [
        graph.tensors[operator.inputs[1]].buffer
        for operator in graph.operators
        if len(operator.inputs) > 2 and is_constant(model, graph, operator.inputs[1])
    ]
    buffer = model.buffers[kernels[1]]
    buffer.data = (-np.frombuffer(bytes(buffer.data), np.float32)).view(np.uint8)
    return write(model)


@pytest.mark.parametrize("file_format", Format)
def test_a_damaged_layer_is_named(task: Task, converted: dict[Format, FloatFile], file_format: Format) -> None:
    target, source = Target(file_format, Precision.FP32), converted[file_format]
    content = damaged(EXPORTERS[file_format].named(source.path, target, task, ()), file_format)
    errors = layer_errors(task.model(), target, task, source, content)
    found = by_layer(errors)
    assert found["first.2"] is not None
    assert found["first.2"] < 1e-5
    assert errors.first_above is not None
    assert errors.first_above.startswith("second.")
    assert errors.largest_jump == errors.first_above


def test_a_net_without_modules_is_held_against_its_float_file(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path), None, save_onnx(tmp_path / "net.onnx"))
    target = Target(Format.ONNX, Precision.INT8)
    exported = export.export(task.load_model(), target, task, tmp_path)
    artifact = exported.path.read_bytes()
    with pytest.raises(ExportError, match="made again, the file comes out with other bytes"):
        compare_layers(task.load_model(), target, task, (), artifact + b" ", tmp_path)
    errors = compare_layers(task.load_model(), target, task, (), artifact, tmp_path)
    assert errors.source == "the float file"
    assert "output" in by_layer(errors)
    known = [one.relative_rms_error for one in errors.layers if one.relative_rms_error is not None]
    assert 0 < max(known) <= errors.tolerance
