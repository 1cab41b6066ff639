from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedeploy import export
from edgedeploy.compress import QuantiseAware, apply_passes
from edgedeploy.errors import ExportError
from edgedeploy.export import Exported, FloatFile
from edgedeploy.exported_file import run_exported
from edgedeploy.records import Format, Int8Form, Precision, Target
from edgedeploy.task import Task, predict
from tests.export import breadth
from tests.export.conftest import Trained
from tests.export.nets import make_task

pytestmark = pytest.mark.builds

Net = tuple[Task, Any]
ONNX, TFLITE = Target(Format.ONNX, Precision.INT8), Target(Format.TFLITE, Precision.INT8)
FAMILIES = ["cnn", "transformer"]


@pytest.fixture(scope="session")
def net(trained: Trained) -> Callable[[str], Net]:
    @cache
    def make(family: str) -> Net:
        task, model = trained(family)
        return task, apply_passes(model, [QuantiseAware(2, 2e-3)], task)

    return make


@pytest.fixture(scope="session")
def converted(net: Callable[[str], Net], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., FloatFile]:
    @cache
    def convert(family: str, file_format: Format) -> FloatFile:
        task, model = net(family)
        # No calibration takes place: there is nothing to calibrate on.
        empty = dataclasses.replace(task, calibration=dataclasses.replace(task.calibration, inputs=()))
        return export.convert(model, file_format, empty, tmp_path_factory.mktemp(f"{family}-{file_format}"))

    return convert


@pytest.fixture(scope="session")
def written(net: Callable[[str], Net], converted: Callable[..., FloatFile]) -> Callable[..., Exported]:
    @cache
    def write(family: str, target: Target) -> Exported:
        source = converted(family, target.format)
        folder = source.path.parent / str(target)
        folder.mkdir()
        return export.quantise(source, target, net(family)[0], folder)

    return write


def outputs(exported: Exported, task: Task) -> np.ndarray:
    return run_exported(exported.path, exported.contract, task.test.inputs, repeat(7))[0]


def tensors(path: Path) -> list[Any]:
    from ai_edge_litert.interpreter import Interpreter

    details: list[Any] = Interpreter(str(path)).get_tensor_details()
    return details


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", [ONNX, TFLITE], ids=str)
def test_the_file_computes_what_the_trained_net_computes(
    family: str, target: Target, net: Callable[[str], Net], written: Callable[..., Exported]
) -> None:
    task, model = net(family)
    exported = written(family, target)
    assert export.check_parity(exported, target, task).relative_rms_error < 0.03  # at several sizes of batch
    expected = predict(model, task.test.inputs)[0].argmax(1)
    assert (outputs(exported, task).argmax(1) == expected).mean() > 0.99
    assert (expected == task.test.targets).mean() > 0.9


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_stored_that_no_node_reads(family: str, written: Callable[..., Exported]) -> None:
    import onnx

    graph = onnx.load(written(family, ONNX).path).graph
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    assert all(read.intersection(node.output) for node in graph.node)
    assert read >= {tensor.name for tensor in graph.initializer}


@pytest.fixture(scope="session", params=["encoder", "decoder"])
def odd_net(request: pytest.FixtureRequest) -> Net:
    """A net with masks, or with several branches, after one short epoch."""

    def loss(output: Any, target: Any) -> Any:
        return (output**2).mean()

    inputs = breadth.inputs_of(request.param)
    task = dataclasses.replace(make_task(lambda: breadth.net_of(request.param), inputs), loss=loss)
    return task, apply_passes(breadth.net_of(request.param), [QuantiseAware(1, 1e-4, batch_size=4)], task)


@pytest.mark.parametrize("target", [ONNX, TFLITE], ids=str)
def test_masks_and_branches_are_no_hindrance(odd_net: Net, target: Target, tmp_path: Path) -> None:
    task, model = odd_net
    assert export.check_parity(export.export(model, target, task, tmp_path), target, task).relative_rms_error < 0.05


def onnx_scales(path: Path) -> tuple[set[tuple[float, int]], set[tuple[float, ...]]]:
    """(step, zero point as int8) of all activations, and the steps of all weights."""
    import onnx

    graph = onnx.load(path).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    activations, weights = set(), set()
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale = constants[node.input[1]]
            levels = constants.get(node.input[0])
            if scale.ndim == 0:
                activations.add((float(scale), int(constants[node.input[2]]) - 128))
            elif levels is None or levels.dtype != np.int32:
                weights.add(tuple(map(float, scale)))
    return activations, weights


def tflite_scales(path: Path) -> tuple[set[tuple[float, int]], set[tuple[float, ...]]]:
    activations, weights = set(), set()
    for tensor in tensors(path):
        parameters = tensor["quantization_parameters"]
        scales = tuple(map(float, parameters["scales"]))
        if tensor["dtype"] is not np.int8 or not scales:
            continue
        if len(scales) == 1:
            activations.add((scales[0], int(parameters["zero_points"][0])))
        else:
            weights.add(scales)
    return activations, weights


@pytest.mark.parametrize("family", FAMILIES)
def test_one_set_of_scales_stands_in_both_files(family: str, written: Callable[..., Exported]) -> None:
    onnx_activations, onnx_weights = onnx_scales(written(family, ONNX).path)
    tflite_activations, tflite_weights = tflite_scales(written(family, TFLITE).path)
    assert len(onnx_activations) > 5
    assert len(onnx_weights) > 5
    assert tflite_weights == onnx_weights
    assert tflite_activations == onnx_activations


@pytest.mark.parametrize("family", FAMILIES)
def test_both_files_give_the_same_integers(
    family: str, net: Callable[[str], Net], written: Callable[..., Exported]
) -> None:
    task, _ = net(family)
    description = written(family, TFLITE).contract["outputs"][0]
    assert description["type"] == "int8"
    steps = [np.rint(outputs(written(family, target), task) / description["scale"]) for target in (ONNX, TFLITE)]
    difference = np.abs(steps[0] - steps[1])
    assert difference.max() <= 3
    assert (difference > 1).mean() < 0.01


def test_the_cnn_is_integer_from_end_to_end(written: Callable[..., Exported]) -> None:
    exported = written("cnn", TFLITE)
    assert {tensor["dtype"] for tensor in tensors(exported.path)} <= {np.int8, np.int32}
    assert [tensor["type"] for tensor in exported.contract["inputs"] + exported.contract["outputs"]] == ["int8"] * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_onnx_file_holds_integers_that_every_runtime_reads(family: str, written: Callable[..., Exported]) -> None:
    import onnx

    model = onnx.load(written(family, ONNX).path)
    assert (model.ir_version, [opset.version for opset in model.opset_import]) == (8, [18])
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    takers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    producers = {name: node for node in model.graph.node for name in node.output}
    assert takers
    for node in takers:
        assert all(producers[name].op_type == "DequantizeLinear" for name in node.input), node.op_type
        held = [kinds[producers[name].input[0]] for name in node.input if producers[name].input[0] in kinds]
        assert held in ([onnx.TensorProto.INT8], [onnx.TensorProto.INT8, onnx.TensorProto.INT32], [])
    activations = {kinds[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert activations == {onnx.TensorProto.UINT8}
    assert not {"Relu", "Clip"} & {node.op_type for node in model.graph.node}, "quantising cuts off the same"


@pytest.mark.parametrize(("target", "name"), [(ONNX, "Conv"), (TFLITE, "CONV_2D")], ids=["onnx", "tflite"])
def test_it_is_told_what_computes_in_integers(target: Target, name: str, written: Callable[..., Exported]) -> None:
    exported = written("cnn", target)
    uses = [use for use in exported.operators if use.operator == name]
    assert [(use.arithmetic, use.weights) for use in uses] == [("int8", "int8")]


@pytest.mark.parametrize("form", [Int8Form.S8S8, Int8Form.U8U8])
def test_another_form_is_the_same_numbers(
    form: Int8Form, net: Callable[[str], Net], written: Callable[..., Exported]
) -> None:
    import onnx

    task, _ = net("cnn")
    exported = written("cnn", dataclasses.replace(ONNX, form=form))
    kinds = {tensor.data_type for tensor in onnx.load(exported.path).graph.initializer}
    assert (onnx.TensorProto.UINT8 in kinds) == (form is Int8Form.U8U8)
    assert (onnx.TensorProto.INT8 in kinds) == (form is Int8Form.S8S8)
    step = written("cnn", TFLITE).contract["outputs"][0]["scale"]
    difference = np.abs(outputs(exported, task) - outputs(written("cnn", ONNX), task)) / step
    assert (difference > 1.01).mean() < 0.01


@pytest.mark.parametrize("file_format", list(Format))
@pytest.mark.parametrize("precision", [precision for precision in Precision if precision is not Precision.INT8])
def test_no_other_precision_can_be_had(
    file_format: Format,
    precision: Precision,
    net: Callable[[str], Net],
    converted: Callable[..., FloatFile],
    tmp_path: Path,
) -> None:
    with pytest.raises(ExportError, match=r'^the net was trained for int8; ask for precisions = \["int8"\]$'):
        export.quantise(converted("cnn", file_format), Target(file_format, precision), net("cnn")[0], tmp_path)


@pytest.mark.parametrize("form", [form for form in Int8Form if not form.trainable])
def test_a_form_that_it_was_not_trained_for_cannot_be_had(
    form: Int8Form, net: Callable[[str], Net], converted: Callable[..., FloatFile], tmp_path: Path
) -> None:
    target = dataclasses.replace(ONNX, form=form)
    with pytest.raises(ExportError, match=f"which {form} does not hold; take u8s8, u8u8 or s8s8"):
        export.quantise(converted("cnn", Format.ONNX), target, net("cnn")[0], tmp_path)


@pytest.mark.parametrize("file_format", list(Format))
def test_no_layer_can_go_back_to_float(file_format: Format, converted: Callable[..., FloatFile]) -> None:
    assert export.layers(converted("cnn", file_format)) == ()
