"""Each precision of a TFLite file is what its name says, for whole nets and for all layers but some."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from torch import nn

from edgedeploy import export
from edgedeploy.errors import ExportError
from edgedeploy.evaluate import drop, evaluate, evaluate_model
from edgedeploy.export import FloatFile, tflite, tflite_ranges
from edgedeploy.export.flatbuffer import is_constant, read
from edgedeploy.export.tflite_unrolling import MAX_STEPS, recurrent_steps, refuse_long_recurrence
from edgedeploy.on_device.runtimes import open_model
from edgedeploy.records import Calibration, Format, OperatorUse, Precision, Target
from edgedeploy.task import Task
from tests.export import nets
from tests.export.conftest import Convert, Make, Trained

pytestmark = pytest.mark.builds

QUANTISED = [precision for precision in Precision if precision is not Precision.FP32]
INTEGER_WEIGHTS = {Precision.FP16: "fp16", Precision.W4: "int4"}


def target(precision: Precision, calibration: Calibration | None = None) -> Target:
    return Target(Format.TFLITE, precision, calibration=calibration)


def used(operators: tuple[OperatorUse, ...], name: str) -> set[tuple[str, str | None]]:
    return {(use.arithmetic, use.weights) for use in operators if use.operator == name}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> tuple[Task, nn.Module, FloatFile]:
    task = nets.tokens_task()
    model = nets.train(task)
    return task, model, export.convert(model, Format.TFLITE, task, tmp_path_factory.mktemp("tokens"))


@pytest.mark.parametrize("precision", Precision)
def test_an_embedding_and_attention_by_hand(
    tokens: tuple[Task, nn.Module, FloatFile], tmp_path: Path, precision: Precision
) -> None:
    task, model, source = tokens
    exported = export.quantise(source, target(precision), task, tmp_path)
    measured = export.check_parity(exported, target(precision), task)
    assert (measured.relative_rms_error < 1e-5) is (precision is Precision.FP32)
    before = evaluate_model(model, task, "selection")
    assert before.quality.value > 0.8
    after = evaluate(exported.path, exported.contract, task, "selection")
    assert drop(before, after).value < (0.03 if precision is Precision.W4 else 0.02)
    stored = {Precision.FP32: "fp32", **INTEGER_WEIGHTS}.get(precision, "int8")
    assert used(exported.operators, "EMBEDDING_LOOKUP") == {("fp32", stored)}


@pytest.mark.parametrize("precision", QUANTISED)
def test_what_a_file_computes_in_is_read_back_from_it(make: Make, precision: Precision) -> None:
    stored = INTEGER_WEIGHTS.get(precision, "int8")
    arithmetic = {Precision.INT8: "int8", Precision.INT16X8: "int16"}.get(precision, "fp32")
    cnn = make("cnn", target(precision)).exported.operators
    assert used(cnn, "CONV_2D") == {(arithmetic, stored)}
    # A matrix product needs no more than its own input to take the range from, and pays for it at once.
    products = "int8" if precision is Precision.INT8_DYNAMIC else arithmetic
    assert used(cnn, "FULLY_CONNECTED") == {(products, stored)}
    # There is no int4 for it, and the file says so.
    [depthwise] = [use for use in cnn if use.operator == "DEPTHWISE_CONV_2D"]
    assert depthwise.weights == ("fp16" if precision is Precision.FP16 else "int8")
    assert bool(depthwise.why) is (precision in (Precision.W4, Precision.INT8_DYNAMIC))


def test_what_stayed_in_float_says_why(make: Make) -> None:
    operators = make("transformer", target(Precision.INT8)).exported.operators
    why = {(use.operator, use.arithmetic): use.why for use in operators}
    assert "norm" in why["RSQRT", "fp32"]
    assert "delegate" in why["SOFTMAX", "fp32"]
    assert why["FULLY_CONNECTED", "int8"] == ""
    assert not [use for use in operators if use.operator == "FULLY_CONNECTED" and use.arithmetic == "fp32"]
    assert all(use.why == "" for use in make("transformer", target(Precision.FP16)).exported.operators)


@pytest.mark.parametrize("family", ["cnn", "gru", "transformer"])
def test_layers_have_the_names_of_the_modules(converted: Convert, trained: Trained, family: str) -> None:
    _, model = trained(family)
    holding = [
        path
        for path, module in model.named_modules()
        if any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))
    ]
    # The positions, which the net itself owns, are added and no layer.
    assert export.layers(converted(family, Format.TFLITE)) == tuple(path for path in holding if path)


class Zeros(nn.Module):
    """One layer sees nothing but zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(torch.relu(-self.first(values).abs())) + values
        return result


class Left(nn.Module):
    """A batched product whose weights come first in the file."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2, 16))
        self.head = nn.Linear(64, 4)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        mixed = torch.einsum("bki,kio->bko", values.reshape(-1, 4, 2), self.weight)
        result: torch.Tensor = self.head(mixed.flatten(1))
        return result


@pytest.mark.parametrize("net", [Zeros, Left])
def test_an_odd_net_in_every_precision(tmp_path: Path, net: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, values = net(), np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    task = nets.make_task(net, (values,))
    source = export.convert(model, Format.TFLITE, task, tmp_path)
    for precision in Precision:
        exported = export.quantise(source, target(precision), task, tmp_path)
        error = export.check_parity(exported, target(precision), task).relative_rms_error
        assert error < (0.15 if precision is Precision.W4 else 0.05), precision
        weights = {use.weights for use in exported.operators}
        assert ("fp32" in weights) is (precision is Precision.FP32) or precision is Precision.FP16


def test_layers_of_two_lists_are_told_apart(tmp_path: Path) -> None:
    class Lists(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
            self.second = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            for one, other in zip(self.first, self.second, strict=True):
                values = torch.tanh(one(values)) + torch.tanh(other(values))
            return values

    task = nets.make_task(Lists, (np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32),))
    source = export.convert(Lists(), Format.TFLITE, task, tmp_path)
    assert sorted(export.layers(source)) == ["first.0", "first.1", "second.0", "second.1"]


@pytest.mark.parametrize("precision", QUANTISED)
def test_a_layer_is_kept_in_float_in_any_precision(
    converted: Convert, make: Make, tmp_path: Path, precision: Precision
) -> None:
    case = make("cnn", target(precision))
    source = converted("cnn", Format.TFLITE)
    exported = export.quantise(source, target(precision), case.task, tmp_path, ["features.1.3", "head"])
    export.check_parity(exported, target(precision), case.task)
    assert used(exported.operators, "FULLY_CONNECTED") == {("fp32", "fp32")}
    [kept] = [use for use in exported.operators if use.operator == "CONV_2D" and use.weights == "fp32"]
    assert (kept.arithmetic, kept.count) == ("fp32", 1)
    assert bool(kept.why) is (precision is not Precision.FP16)
    [other] = [use for use in exported.operators if use.operator == "CONV_2D" and use.weights != "fp32"]
    assert other.count == 1
    assert exported.path.stat().st_size > case.exported.path.stat().st_size


def test_all_layers_kept_in_float_are_the_float_net(converted: Convert, make: Make, tmp_path: Path) -> None:
    case = make("gru", target(Precision.INT8))
    source = converted("gru", Format.TFLITE)
    exported = export.quantise(source, target(Precision.INT8), case.task, tmp_path, export.layers(source))
    error = export.check_parity(exported, target(Precision.INT8), case.task).relative_rms_error
    assert error < 0.5 * export.check_parity(case.exported, target(Precision.INT8), case.task).relative_rms_error


def test_a_layer_that_is_not_there_is_named(converted: Convert, trained: Trained, tmp_path: Path) -> None:
    task, _ = trained("gru")
    with pytest.raises(ExportError, match=r"no layer 'tail' to keep in float; the file has gru, head"):
        export.quantise(converted("gru", Format.TFLITE), target(Precision.W8), task, tmp_path, ["head", "tail"])


def test_the_output_of_a_module_is_found_in_the_float_file(converted: Convert, trained: Trained) -> None:
    task, model = trained("cnn")
    images = task.test.inputs[0][:1]
    given: dict[str, np.ndarray] = {}
    for path, module in model.named_modules():
        module.register_forward_hook(lambda _m, _i, output, path=path: given.update({path: output.numpy()}))
    with torch.no_grad():
        model(torch.from_numpy(images))
    for module in model.modules():
        module._forward_hooks.clear()
    source = converted("cnn", Format.TFLITE)
    found = tflite.outputs(source.path)
    interpreter = Interpreter(
        str(source.path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
    interpreter.invoke()
    values = {detail["name"]: interpreter.get_tensor(detail["index"]) for detail in interpreter.get_tensor_details()}
    assert {"features.0.2", "features.1.5", "head"} <= set(found)
    assert "features.0.0" not in found  # folded into its activation
    for path, name in found.items():
        if path in given:
            value = values[name] if values[name].shape == given[path].shape else np.moveaxis(values[name], -1, 1)
            assert np.allclose(value, given[path], atol=1e-4), path


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT16X8])
def test_integer_inputs_and_outputs_of_either_width(make: Make, precision: Precision) -> None:
    case = make("cnn", target(precision))
    [entry] = case.exported.contract["inputs"]
    model = open_model(str(case.exported.path), case.exported.contract)
    images = case.task.test.inputs[0][:1]
    model.prepare([images])
    stored = model.prepare.__self__._interpreter.get_tensor(0)  # type: ignore[attr-defined]
    assert str(stored.dtype) == entry["type"] == {Precision.INT8: "int8", Precision.INT16X8: "int16"}[precision]
    assert np.array_equal(stored, np.rint(images / entry["scale"]) + entry["zero_point"])


def test_ranges_are_what_was_seen_and_no_moving_average(make: Make) -> None:
    case = make("cnn", target(Precision.INT8))
    images = case.task.calibration.inputs[0]
    [entry] = case.exported.contract["inputs"]
    # The default of ai-edge-quantizer ends a fifth lower: most images do not reach the whitest grey.
    assert entry["scale"] * 255 == pytest.approx(images.max() - images.min(), rel=1e-3)
    assert images.max(axis=(1, 2)).min() < images.max()


def test_each_way_to_calibrate_gives_other_ranges(converted: Convert, trained: Trained, tmp_path: Path) -> None:
    task, _ = trained("gru")
    source = converted("gru", Format.TFLITE)
    scales, files = {}, set()
    for calibration in (
        Calibration(),
        Calibration(method="percentile", percentile=99.0),
        Calibration(method="mse"),
        Calibration(method="entropy"),
        Calibration(examples=2),
    ):
        wanted = target(Precision.INT8, calibration)
        exported = export.quantise(source, wanted, task, tmp_path)
        export.check_parity(exported, wanted, task)
        scales[calibration.method, calibration.examples] = exported.contract["outputs"][0]["scale"]
        files.add(exported.path.read_bytes())
    assert len(files) == len(scales) == 5
    assert scales["percentile", 128] < scales["minmax", 128]
    assert scales["minmax", 2] < scales["minmax", 128]


def test_a_net_is_calibrated_once_for_all_layers_kept_in_float(
    converted: Convert, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make("cnn", target(Precision.INT8))

    def again(*_: object) -> None:
        raise RuntimeError("calibrated again")

    monkeypatch.setattr(tflite_ranges, "_observe", again)
    source = converted("cnn", Format.TFLITE)
    export.quantise(source, target(Precision.INT8), case.task, tmp_path, ["head"])
    export.quantise(source, target(Precision.INT8, Calibration()), case.task, tmp_path)
    assert (tmp_path / "model.tflite").read_bytes() == case.exported.path.read_bytes()
    with pytest.raises(ExportError, match="calibrated again"):
        export.quantise(source, target(Precision.INT8, Calibration(examples=3)), case.task, tmp_path)


def test_an_unrolled_net_repeats_no_constant(make: Make) -> None:
    content = make("gru", target(Precision.INT8)).exported.path.read_bytes()
    model = read(content)
    graph = model.subgraphs[0]
    held = [bytes(buffer.data) for buffer in model.buffers if buffer.data is not None]
    assert len(held) == len(set(held))
    constants = [tensor for index, tensor in enumerate(graph.tensors) if is_constant(model, graph, index)]
    biases = [tensor for tensor in constants if list(tensor.shape) == [3 * 48] and tensor.type == 2]
    assert len(biases) <= 2  # of the input and of the state, not one for each of eight steps
    assert len(content) < 0.7 * make("gru", target(Precision.FP32)).exported.path.stat().st_size


def test_weights_lie_where_a_runtime_may_load_them(make: Make) -> None:
    # The schema asks for it, the generated writer forgets it.
    content = make("cnn", target(Precision.FP32)).exported.path.read_bytes()
    large = [
        bytes(buffer.data) for buffer in read(content).buffers if buffer.data is not None and len(buffer.data) > 64
    ]
    assert len(large) > 5
    assert all(content.index(data) % 16 == 0 for data in large)


class Long(nn.Module):
    """A recurrent layer over a sequence of any length."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(8, 2)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.layer(values)[0][:, -1])
        return logits


def test_a_recurrence_too_long_to_unroll_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import litert_torch

    def convert(*_: object, **__: object) -> None:
        raise AssertionError("the long conversion has begun")

    monkeypatch.setattr(litert_torch, "convert", convert)
    model = Long(nn.GRU(4, 4, num_layers=2, bidirectional=True, batch_first=True))
    values = np.zeros((8, MAX_STEPS // 4 + 1, 4), np.float32)
    with pytest.raises(ExportError, match=rf"a copy of the cell for each of {MAX_STEPS + 4} steps, most.* of `layer`"):
        export.convert(model, Format.TFLITE, nets.make_task(lambda: model, (values,)), tmp_path)


def test_steps_are_counted_over_layers_directions_and_cells() -> None:
    class Cells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(4, 8)

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            state = None
            for step in range(values.shape[1]):
                state = self.cell(values[:, step], state)
            assert state is not None
            hidden: torch.Tensor = state[0]
            return hidden

    values = torch.zeros(1, 7, 4)
    assert recurrent_steps(Long(nn.LSTM(4, 8, batch_first=True)), (values,)) == {"layer": 7}
    assert recurrent_steps(Long(nn.GRU(4, 4, 2, bidirectional=True, batch_first=True)), (values,)) == {"layer": 28}
    assert recurrent_steps(nn.LSTM(4, 8), (values,)) == {"": 1}
    assert recurrent_steps(Cells(), (values,)) == {"cell": 7}
    refuse_long_recurrence(Long(nn.RNN(4, 8, batch_first=True)), (torch.zeros(1, MAX_STEPS, 4),))
