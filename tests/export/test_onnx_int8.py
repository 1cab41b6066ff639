"""Static int8 in ONNX: each form as it is encoded, Q and DQ only where they pay, ranges seen once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgedeploy import export
from edgedeploy.errors import ExportError
from edgedeploy.evaluate import drop, evaluate, evaluate_model
from edgedeploy.export import onnx_ranges
from edgedeploy.export.onnx_inner import told
from edgedeploy.export.onnx_places import fold_stem, pool_globally
from edgedeploy.export.parity import relative_rms_error
from edgedeploy.exported_file import run_exported
from edgedeploy.onnx_session import open_session
from edgedeploy.records import Calibration, Format, Int8Form, Precision, Target
from tests.export.conftest import Convert, Make
from tests.export.nets import make_task

pytestmark = pytest.mark.builds

INT8 = Target(Format.ONNX, Precision.INT8)
FORMS = {form: Target(Format.ONNX, Precision.INT8, form) for form in Int8Form}
ACTIVATIONS = {
    Int8Form.U8S8: TensorProto.UINT8,
    Int8Form.U8S7: TensorProto.UINT8,
    Int8Form.U8U8: TensorProto.UINT8,
    Int8Form.S8S8: TensorProto.INT8,
    Int8Form.S8S8_SYMMETRIC: TensorProto.INT8,
}


def constants(graph: Any) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def session(content: bytes, optimised: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("family", ["cnn", "transformer"])
@pytest.mark.parametrize("form", Int8Form)
def test_each_form_keeps_accuracy(make: Make, family: str, form: Int8Form) -> None:
    case = make(family, FORMS[form])
    assert export.check_parity(case.exported, case.target, case.task).relative_rms_error < 0.05
    source = evaluate_model(case.model, case.task, "selection")
    lost = drop(source, evaluate(case.exported.path, case.exported.contract, case.task, "selection"))
    assert lost.value < 0.02


@pytest.mark.parametrize("form", Int8Form)
def test_each_form_is_encoded_as_it_says(make: Make, form: Int8Form) -> None:
    graph = onnx.load(make("cnn", FORMS[form]).exported.path).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    known = constants(graph)
    activations = [known[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert {helper.np_dtype_to_tensor_dtype(zero.dtype) for zero in activations} == {ACTIVATIONS[form]}
    if form is Int8Form.S8S8_SYMMETRIC:
        assert not any(zero.any() for zero in activations)
    else:  # what a Relu gives starts at the lowest code
        assert {int(zero) for zero in activations} >= {0 if ACTIVATIONS[form] == TensorProto.UINT8 else -128}
    weights = [
        node
        for node in graph.node
        if node.op_type == "DequantizeLinear" and known.get(node.input[0], np.zeros(0)).ndim > 1
    ]
    assert {kinds[node.input[0]] for node in weights} == {
        TensorProto.UINT8 if form is Int8Form.U8U8 else TensorProto.INT8
    }
    made_by = {name: node for node in graph.node for name in node.output}
    for node in weights:  # one scale for each output channel
        step = node.input[1] if node.input[1] in known else made_by[node.input[1]].input[0]
        assert known[step].shape == (known[node.input[0]].shape[0],)
        most = np.abs(known[node.input[0]].astype(int) - (128 if form is Int8Form.U8U8 else 0)).max()
        assert most == (64 if form is Int8Form.U8S7 else 127)
        zeros = known[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros(1)
        assert set(zeros.ravel().tolist()) == {128 if form is Int8Form.U8U8 else 0}


def test_the_default_form_is_the_one_for_x86(make: Make) -> None:
    default, named = make("cnn", INT8).exported.path, make("cnn", FORMS[Int8Form.U8S8]).exported.path
    assert default.read_bytes() == named.read_bytes()


def test_sixteen_bit_activations_are_in_the_file(make: Make) -> None:
    graph = onnx.load(make("cnn", Target(Format.ONNX, Precision.INT16X8)).exported.path).graph
    known = constants(graph)
    activations = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert activations
    assert all(known[node.input[2]].dtype == np.uint16 and node.domain == "com.microsoft" for node in activations)
    assert {known[node.input[0]].dtype for node in graph.node if node.input[0] in known} >= {np.dtype(np.int8)}


def test_a_cnn_is_integer_from_end_to_end(make: Make, tmp_path: Path) -> None:
    session(make("cnn", INT8).exported.path.read_bytes(), tmp_path / "optimised.onnx")
    found = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert (found["QuantizeLinear"], found["DequantizeLinear"]) == (1, 0)
    assert (found["QLinearConv"], found["QLinearGlobalAveragePool"], found["QGemm"]) == (5, 1, 1)
    assert not {"Conv", "Gemm", "Clip", "ReduceMean", "Cast", "Mul"} & set(found)


def test_only_what_products_read_is_quantised_in_a_transformer(make: Make, tmp_path: Path) -> None:
    graph = onnx.load(make("transformer", INT8).exported.path).graph
    pairs = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(pairs) == 10  # for ten products with weights
    users = {name: node.op_type for node in graph.node for name in node.input}
    made = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    assert {users[made[node.output[0]]] for node in pairs} == {"MatMul", "Gemm"}
    session(make("transformer", INT8).exported.path.read_bytes(), tmp_path / "optimised.onnx")
    found = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert found["MatMulIntegerToFloat"] + found["QGemm"] == 10
    assert found["DequantizeLinear"] == 0


@pytest.mark.parametrize("family", ["cnn", "gru", "transformer"])
def test_no_file_is_larger_than_what_onnxruntime_writes_by_itself(
    make: Make, converted: Convert, tmp_path: Path, family: str
) -> None:
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, images: np.ndarray) -> None:
            self._images: Iterator[np.ndarray] = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self._images, None)
            return None if image is None else {"input": image[None]}

    images = make(family, INT8).task.calibration.inputs[0][:8]
    quantization.quantize_static(converted(family, Format.ONNX).path, tmp_path / "peer.onnx", Reader(images))
    ours = make(family, INT8).exported.path.stat().st_size
    assert ours < (tmp_path / "peer.onnx").stat().st_size


@pytest.mark.parametrize(
    ("kernel", "pads"), [(3, [1, 1, 1, 1]), (7, [3, 3, 3, 3]), (3, [0, 0, 1, 1]), (4, [1, 1, 1, 1]), (2, [0] * 4)]
)
def test_a_stem_on_space_to_depth_is_the_same_convolution(kernel: int, pads: list[int]) -> None:
    model = convolution(kernel, pads)
    values = np.random.default_rng(1).normal(size=(2, 3, 12, 10)).astype(np.float32)
    [before] = session(model.SerializeToString()).run(None, {"input": values})
    assert fold_stem(model.graph) == {"input_deep": "input"}
    assert [node.op_type for node in model.graph.node] == ["SpaceToDepth", "Conv"]
    [after] = session(model.SerializeToString()).run(None, {"input": values})
    np.testing.assert_allclose(after, before, atol=1e-5)


@pytest.mark.parametrize("other", [{"strides": [1, 1]}, {"dilations": [2, 2]}, {"channels": 4}, {"height": 13}])
def test_other_stems_stay_as_they_are(other: dict[str, Any]) -> None:
    model = convolution(3, [1, 1, 1, 1], **other)
    before = model.SerializeToString()
    assert fold_stem(model.graph) == {}
    assert model.SerializeToString() == before


def convolution(kernel: int, pads: list[int], channels: int = 3, height: int = 12, **attributes: Any) -> Any:
    weight = np.random.default_rng(0).normal(size=(5, channels, kernel, kernel)).astype(np.float32)
    node = helper.make_node("Conv", ["input", "w"], ["output"], pads=pads, **{"strides": [2, 2], **attributes})
    entry = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", channels, height, 10])
    result = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 5, None, None])
    graph = helper.make_graph([node], "stem", [entry], [result], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize(("axes", "keeps", "pooled"), [([2, 3], 1, True), ([-1, -2], 0, True), ([1, 2], 1, False)])
def test_a_mean_over_height_and_width_is_a_pool(axes: list[int], keeps: int, *, pooled: bool) -> None:
    node = helper.make_node("ReduceMean", ["input", "axes"], ["output"], keepdims=keeps, name="mean")
    entry = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 4, 5])
    result = helper.make_tensor_value_info("output", TensorProto.FLOAT, None)
    axes_of = numpy_helper.from_array(np.array(axes), "axes")
    model = helper.make_model(
        helper.make_graph([node], "mean", [entry], [result], [axes_of]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    values = np.random.default_rng(1).normal(size=(2, 3, 4, 5)).astype(np.float32)
    [before] = session(model.SerializeToString()).run(None, {"input": values})
    pool_globally(model.graph)
    assert (model.graph.node[0].op_type == "GlobalAveragePool") is pooled
    [after] = session(model.SerializeToString()).run(None, {"input": values})
    np.testing.assert_allclose(after, before, atol=1e-6)


def test_a_file_is_calibrated_once_whatever_stays_in_float(
    make: Make, converted: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, source = make("cnn", INT8).task, converted("cnn", Format.ONNX)
    export.quantise(source, INT8, task, tmp_path)

    def again(*_: object) -> Iterator[Any]:
        raise AssertionError("calibrated again")

    monkeypatch.setattr(onnx_ranges, "_observe", again)
    for kept in ((), ("head",), ("features.0.0", "features.1.3")):
        export.quantise(source, INT8, task, tmp_path, keep_float=kept)


class Wide(nn.Module):
    """Reads so many values that one among them is an outlier."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4096, 8)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(values)
        return result


def test_every_method_beats_minmax_where_there_is_an_outlier(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(400, 4096)).astype(np.float32)
    values[1, 7] = 20.0  # in the calibration split, as make_task cuts it
    torch.manual_seed(0)
    net = Wide()
    task = make_task(lambda: net, (values,))
    source = export.convert(net, Format.ONNX, task, tmp_path)
    with torch.no_grad():
        expected = net(torch.from_numpy(task.selection.inputs[0])).numpy()
    errors, files = {}, set()
    for method in ("minmax", "percentile", "mse", "entropy"):
        target = Target(Format.ONNX, Precision.INT8, calibration=Calibration(method))
        exported = export.quantise(source, target, task, tmp_path)
        files.add(exported.path.read_bytes())
        [given] = run_exported(exported.path, exported.contract, task.selection.inputs, iter([100]))
        errors[method] = relative_rms_error(given, expected)
    assert len(files) == len(errors)
    assert all(errors[method] < 0.8 * errors["minmax"] for method in ("percentile", "mse", "entropy")), errors


def test_an_example_that_the_net_cannot_bear_is_refused(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    values[1] = 3e38  # in the calibration split: its sums overflow
    task = make_task(lambda: nn.Linear(8, 4), (values,))
    torch.manual_seed(0)
    with pytest.raises(ExportError, match=r"`\w+` takes NaN or infinity on the calibration split"):
        export.export(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), INT8, task, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_mask_of_infinities_needs_no_range(tmp_path: Path) -> None:
    class Masked(nn.Module):
        """Attends to the past alone."""

        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(8, 16)

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            features = self.project(values)
            mask = torch.full((4, 4), float("-inf")).triu(1)
            attended: torch.Tensor = ((features @ features.transpose(1, 2)) + mask).softmax(-1) @ features
            return attended

    torch.manual_seed(0)
    net = Masked()
    task = make_task(lambda: net, (np.random.default_rng(0).normal(size=(40, 4, 8)).astype(np.float32),))
    exported = export.export(net, INT8, task, tmp_path)
    assert export.check_parity(exported, INT8, task).relative_rms_error < 0.1


@pytest.mark.parametrize("batch", [1, 3])
def test_a_static_batch_is_calibrated_as_a_free_one(tmp_path: Path, batch: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    task = make_task(lambda: net, (np.random.default_rng(0).normal(size=(44, 8)).astype(np.float32),))
    ranges = []
    for size in (None, batch):
        folder = tmp_path / str(size)
        folder.mkdir()
        source = export.convert(net, Format.ONNX, task, folder, size)
        target = Target(Format.ONNX, Precision.INT8, batch=size)
        assert export.check_parity(export.quantise(source, target, task, folder), target, task)
        [seen] = folder.glob("*.json")
        ranges.append(seen.read_text("utf-8"))
    assert ranges[0] == ranges[1]


def test_what_onnxruntime_refuses_is_told_in_one_sentence() -> None:
    model = convolution(3, [1, 1, 1, 1])
    model.graph.node[0].input[1] = "nowhere"
    with (
        pytest.raises(ExportError, match=r"onnxruntime cannot load the exported file: .*nowhere"),
        told("load the exported file"),
    ):
        open_session(model.SerializeToString())
