"""What nets are made of, beyond the digits: each goes to both formats, and the file computes what the net does."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgedeploy import export
from edgedeploy.errors import ExportError, PlanError
from edgedeploy.exported_file import run_exported
from edgedeploy.on_device.runtimes import open_model
from edgedeploy.records import Format, Precision, Target
from edgedeploy.task import Task, predict
from tests.export import breadth
from tests.export.nets import make_task

pytestmark = pytest.mark.builds

FP32 = {file_format: Target(file_format, Precision.FP32) for file_format in Format}


Converted = Callable[[str, Format], tuple[nn.Module, Task, export.FloatFile]]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    @cache
    def get(name: str, file_format: Format) -> tuple[nn.Module, Task, export.FloatFile]:
        net = breadth.net_of(name)
        task = make_task(lambda: net, breadth.inputs_of(name))
        return net, task, export.convert(net, file_format, task, tmp_path_factory.mktemp(name))

    return get


@pytest.mark.parametrize("file_format", Format)
@pytest.mark.parametrize("name", breadth.NETS)
def test_the_file_computes_what_the_net_computes(
    converted: Converted, tmp_path: Path, name: str, file_format: Format
) -> None:
    (net, task, source), inputs = converted(name, file_format), breadth.inputs_of(name)
    target = FP32[file_format]
    exported = export.quantise(source, target, task, tmp_path)
    assert export.check_parity(exported, target, task).relative_rms_error < 1e-5
    described = exported.contract["inputs"], exported.contract["outputs"]
    outputs = predict(net, inputs)
    for tensors, arrays in zip(described, (inputs, outputs), strict=True):
        assert [tensor["shape"] for tensor in tensors] == [[target.static_batch, *a.shape[1:]] for a in arrays]
        assert [tensor["real_type"] for tensor in tensors] == [array.dtype.name for array in arrays]
    assert all(np.ptp(output.astype(float)) > 0 for output in outputs), "an output that is constant proves nothing"
    if file_format is Format.ONNX:  # every batch, one that the exporter never saw included
        for batch in (1, 3):
            some = tuple(array[:batch] for array in inputs)
            for given, wanted in zip(
                open_model(str(exported.path), exported.contract).run(list(some)), predict(net, some), strict=True
            ):
                np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8, Precision.INT8_DYNAMIC, Precision.INT16X8])
@pytest.mark.parametrize("file_format", Format)
@pytest.mark.parametrize("name", ["encoder", "attention"])
def test_attention_is_masked_in_fewer_bits_too(
    converted: Converted, tmp_path: Path, name: str, file_format: Format, precision: Precision
) -> None:
    _, task, source = converted(name, file_format)
    target = Target(file_format, precision)
    exported = export.quantise(source, target, task, tmp_path)
    assert export.check_parity(exported, target, task).relative_rms_error < 0.1
    for output in run_exported(exported.path, exported.contract, task.test.inputs, repeat(target.static_batch or 8)):
        assert np.isfinite(output).all()


class TopTwo(nn.Module):
    """Sorts."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.topk(2)[0]


def test_sorting_goes_to_onnx_alone_and_tflite_says_why(tmp_path: Path) -> None:
    task = make_task(TopTwo, (np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32),))
    exported = export.export(TopTwo(), FP32[Format.ONNX], task, tmp_path)
    assert export.check_parity(exported, FP32[Format.ONNX], task).relative_rms_error == 0.0
    with pytest.raises(ExportError, match=r"its own runtime refuses the exported file: .*STABLEHLO_SORT") as raised:
        export.export(TopTwo(), FP32[Format.TFLITE], task, tmp_path)
    assert "\n" not in str(raised.value)


class Small(nn.Module):
    """A recurrent layer, whose batch axis an exporter freezes most easily, and a linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.gru(rows)[0][:, -1])
        return logits


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
@pytest.mark.parametrize("file_format", Format)
def test_a_static_batch_is_as_large_as_asked_for(tmp_path: Path, file_format: Format, precision: Precision) -> None:
    torch.manual_seed(0)
    net, rows = Small().eval(), np.random.default_rng(0).normal(size=(44, 2, 4)).astype(np.float32)
    task, target = make_task(lambda: net, (rows,)), Target(file_format, precision, batch=3)
    exported = export.export(net, target, task, tmp_path)
    assert [t["shape"][0] for t in (*exported.contract["inputs"], *exported.contract["outputs"])] == [3, 3]
    export.check_parity(exported, target, task)
    with np.load(exported.probe_path) as probe:  # a board makes whole calls only
        assert (len(probe["input_0"]), len(probe["output_0"])) == (6, 6)
    # Seven are no multiple of three: the last call is filled up, and what fills it does not come back.
    seven = run_exported(exported.path, exported.contract, (rows[:7],), repeat(7))
    one_by_one = run_exported(exported.path, exported.contract, (rows[:7],), repeat(1))
    assert seven[0].shape == (7, 3)
    assert np.array_equal(seven[0], one_by_one[0])
    tolerance = 1e-5 if precision is Precision.FP32 else 0.1
    np.testing.assert_allclose(seven[0], predict(net, (rows[:7],))[0], atol=tolerance)


def test_an_onnx_file_of_a_static_batch_leaves_no_shape_open(tmp_path: Path) -> None:
    import onnx

    task = make_task(Small, (np.random.default_rng(0).normal(size=(16, 2, 4)).astype(np.float32),))
    exported = export.export(Small(), Target(Format.ONNX, Precision.FP32, batch=1), task, tmp_path)
    graph = onnx.shape_inference.infer_shapes(onnx.load(exported.path), strict_mode=True).graph
    shapes = [value.type.tensor_type.shape for value in (*graph.input, *graph.output, *graph.value_info)]
    assert all(axis.HasField("dim_value") for shape in shapes for axis in shape.dim)
    assert "Shape" not in {node.op_type for node in graph.node}


class Flattens(nn.Module):
    """Takes batches of exactly two."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.reshape(2, -1) if values.shape[0] == 2 else values * 1.0


def test_a_net_that_fixes_its_batch_goes_out_with_that_batch(tmp_path: Path) -> None:
    task = make_task(Flattens, (np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32),))
    with pytest.raises(ExportError, match="fixes the size of its batch axis"):
        export.export(Flattens(), FP32[Format.ONNX], task, tmp_path)
    target = Target(Format.ONNX, Precision.FP32, batch=2)
    exported = export.export(Flattens(), target, task, tmp_path)
    assert export.check_parity(exported, target, task).relative_rms_error == 0.0


Output = Callable[[torch.Tensor], object]


class Gives(nn.Module):
    """Gives whatever it is told to."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self.output = output

    def forward(self, values: torch.Tensor) -> object:
        return self.output(values)


OUTPUTS: dict[str, tuple[Output, str]] = {
    "dict": (lambda values: {"logits": values}, "output 0 of the net is a dict"),
    "none": (lambda values: None, "output 0 of the net is a NoneType"),
    "nested": (lambda values: (values, (values,)), "output 1 of the net is a tuple"),
    "scalar": (lambda values: values.mean(), r"output 0 of the net has shape \(\) for a batch of"),
}


@pytest.mark.parametrize("what", OUTPUTS)
def test_outputs_that_no_file_can_give(tmp_path: Path, what: str) -> None:
    output, told = OUTPUTS[what]
    task = make_task(lambda: Gives(output), (np.ones((16, 8), np.float32),))
    with pytest.raises(PlanError, match=told):
        export.export(Gives(output), FP32[Format.ONNX], task, tmp_path)
