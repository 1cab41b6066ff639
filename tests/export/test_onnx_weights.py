"""Weights in eight and four bits: as small as they say, exact where they were trained to be, folded at load."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from edgedeploy import export
from edgedeploy.export import FloatFile, onnx_graph
from edgedeploy.export.onnx_weights import in_eight_bits, in_four_bits
from edgedeploy.records import Format, Int8Form, OperatorUse, Precision, Target
from edgedeploy.task import Task
from tests.export.conftest import Convert, Make
from tests.export.nets import make_task
from tests.export.test_onnx_int8 import constants, session

pytestmark = pytest.mark.builds

TARGETS = {precision: Target(Format.ONNX, precision) for precision in Precision}
QUANTISED = [precision for precision in Precision if precision not in (Precision.FP32, Precision.FP16)]


class Recurrent(nn.Module):
    """Both kinds of cell, both directions, several layers, and a table of words before them."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 24)
        self.gru = nn.GRU(24, 32, num_layers=2, bidirectional=True, batch_first=True)
        self.lstm = nn.LSTM(64, 72, batch_first=True)
        self.narrow = nn.LSTM(72, 24, bidirectional=True, batch_first=True)
        self.head = nn.Linear(48, 5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        states, _ = self.gru(self.words(tokens))
        states, _ = self.lstm(states)
        states, _ = self.narrow(states)
        logits: torch.Tensor = self.head(states[:, -1])
        return logits


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory: pytest.TempPathFactory) -> tuple[Task, FloatFile]:
    torch.manual_seed(0)
    net = Recurrent().eval()
    with torch.no_grad():  # as small as torch makes them, all states are alike
        for parameter in net.parameters():
            parameter.mul_(2.0)
    task = make_task(lambda: net, (np.random.default_rng(0).integers(0, 50, (80, 12)),))
    return task, export.convert(net, Format.ONNX, task, tmp_path_factory.mktemp("recurrent"))


def stored_bytes(path: Path) -> int:
    return sum(array.nbytes for array in constants(onnx.load(path).graph).values())


def optimised(path: Path, folder: Path) -> Counter[str]:
    session(path.read_bytes(), folder / "optimised.onnx")
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def test_layers_are_the_modules_that_hold_weights(recurrent: tuple[Task, FloatFile], converted: Convert) -> None:
    assert export.layers(recurrent[1]) == ("words", "gru", "lstm", "narrow", "head")
    # A batch norm folds into its convolution, a projection stands in a module of its own.
    assert export.layers(converted("cnn", Format.ONNX))[:3] == ("features.0.0", "features.1.0", "features.1.3")
    assert export.layers(converted("transformer", Format.ONNX))[1:4] == (
        "encoder.layers.0.self_attn",
        "encoder.layers.0.self_attn.out_proj",
        "encoder.layers.0.linear1",
    )


def test_the_last_tensor_of_each_module_is_known(converted: Convert, make: Make) -> None:
    graph = onnx.load(converted("cnn", Format.ONNX).path).graph
    last = onnx_graph.last_outputs(graph)
    assert last["features.0.0"] if "features.0.0" in last else last["features.0.1"]
    assert set(last) >= {"features", "features.0", "features.0.2", "features.1", "features.2", "head"}
    case = make("cnn", TARGETS[Precision.FP32])
    inputs = case.task.test.inputs[0][:3]
    graph_of = onnx.load(converted("cnn", Format.ONNX).path)
    graph_of.graph.output.append(onnx.ValueInfoProto(name=last["features.1"]))
    [given] = session(graph_of.SerializeToString()).run([last["features.1"]], {"input": inputs})
    features: Any = case.model.features
    with torch.no_grad():
        expected = features[:2](torch.from_numpy(inputs)[:, None]).numpy()
    np.testing.assert_allclose(given, expected, atol=1e-5)


@pytest.mark.parametrize("precision", QUANTISED)
def test_recurrent_nets_shrink_and_compute_the_same(
    recurrent: tuple[Task, FloatFile], tmp_path: Path, precision: Precision
) -> None:
    task, source = recurrent
    exported = export.quantise(source, TARGETS[precision], task, tmp_path)
    measured = export.check_parity(exported, TARGETS[precision], task).relative_rms_error
    assert 1e-5 < measured < (0.2 if precision is Precision.W4 else 0.03)
    whole = tmp_path / "fp32"
    whole.mkdir()
    full = stored_bytes(export.quantise(source, TARGETS[Precision.FP32], task, whole).path)
    assert full / stored_bytes(exported.path) > (6.0 if precision is Precision.W4 else 3.5)


@pytest.mark.parametrize("family", ["cnn", "gru", "transformer"])
@pytest.mark.parametrize("precision", [Precision.W8, Precision.W4])
def test_what_rebuilds_the_weights_is_folded_at_load(
    make: Make, tmp_path: Path, family: str, precision: Precision
) -> None:
    stored = make(family, TARGETS[precision]).exported.path
    kinds = Counter(node.op_type for node in onnx.load(stored).graph.node)
    assert kinds["Cast"] > 0
    assert kinds["Mod"] == kinds["BitShift"] == (kinds["Sub"] if precision is Precision.W4 else 0)
    whole = make(family, TARGETS[Precision.FP32]).exported.path
    assert optimised(stored, tmp_path) == optimised(whole, tmp_path)


def test_a_float_scale_is_never_finer_than_the_levels_know() -> None:
    array = np.random.default_rng(0).normal(size=(16, 9)).astype(np.float32)
    levels = in_eight_bits(array, 0)
    assert (levels.values.dtype.name, levels.steps.dtype.name, levels.steps.shape) == ("int8", "float16", (16, 1))
    wide = levels.steps.astype(np.float32)
    assert np.abs(levels.values * wide - array).max() <= 0.51 * wide.max()
    # Too small for a half: the scale stays a float, so the levels are still used.
    tiny = in_eight_bits(array * 1e-6, 0)
    assert tiny.steps.dtype == np.float32
    assert np.abs(tiny.values).max() == 127


def test_four_bits_have_a_step_for_each_block_of_inputs() -> None:
    array = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    array[3, 40] = 50.0
    levels = in_four_bits(array, 0)
    assert (levels.values.shape, levels.steps.shape) == ((8, 2, 32), (8, 2, 1))
    assert (levels.values.min(), levels.values.max()) == (-8, 7)
    rebuilt = (levels.values * levels.steps.astype(np.float32)).reshape(8, 64)
    away = np.abs(rebuilt - array)
    assert away[3, :32].max() < 0.4 < away[3, 32:].max()  # the outlier costs its own block alone
    assert in_four_bits(array.T.copy(), 1).steps.shape == (2, 1, 8)  # as MatMul has them
    assert in_four_bits(array[:, :50], 0).steps.shape == (8, 1, 1)  # no blocks of 32: one for the channel


@pytest.mark.parametrize(
    ("target", "levels"),
    [
        (TARGETS[Precision.W4], 7),
        (TARGETS[Precision.W8], 100),
        (TARGETS[Precision.INT8], 100),
        (Target(Format.ONNX, Precision.INT8, Int8Form.U8S7), 60),
    ],
    ids=str,
)
def test_trained_levels_are_stored_as_they_are(tmp_path: Path, target: Target, levels: int) -> None:
    generator = np.random.default_rng(0)
    trained = generator.integers(-levels, levels + 1, (64, 96))
    trained[:, 0] = levels
    steps = generator.uniform(0.01, 0.1, (64, 1)).astype(np.float32)
    net = nn.Linear(96, 64)
    with torch.no_grad():
        net.weight.copy_(torch.from_numpy(trained * steps))
    task = make_task(lambda: net, (generator.normal(size=(80, 96)).astype(np.float32),))
    exported = export.export(net, target, task, tmp_path)
    graph = onnx.load(exported.path).graph
    if target.precision is Precision.W4:
        [packed] = [t for t in graph.initializer if t.data_type == TensorProto.UINT8 and len(t.dims) > 1]
        halves = numpy_helper.to_array(packed)
        found = np.concatenate([halves & 15, halves >> 4]).astype(int) - 8
    else:
        [stored] = [t for t in graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) > 1]
        found = numpy_helper.to_array(stored).astype(int)
    assert np.array_equal(found, trained)
    if target.precision is not Precision.INT8:  # nothing but the bias is rounded
        assert export.check_parity(exported, target, task).relative_rms_error < 1e-4


def test_weights_that_the_nodes_would_outweigh_stay_float(tmp_path: Path) -> None:
    net = nn.Linear(4, 4)
    task = make_task(lambda: net, (np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32),))
    source = export.convert(net, Format.ONNX, task, tmp_path)
    whole = export.quantise(source, TARGETS[Precision.FP32], task, tmp_path).path.read_bytes()
    for precision in (Precision.W8, Precision.W4):
        assert export.quantise(source, TARGETS[precision], task, tmp_path).path.read_bytes() == whole


@pytest.mark.parametrize("precision", [*QUANTISED, Precision.FP16])
@pytest.mark.parametrize(
    ("family", "kept"), [("transformer", "encoder.layers.0.linear1"), ("gru", "gru"), ("cnn", "features.2.3")]
)
def test_a_layer_that_is_to_stay_in_float_does(
    converted: Convert, make: Make, tmp_path: Path, family: str, kept: str, precision: Precision
) -> None:
    case, source = make(family, TARGETS[precision]), converted(family, Format.ONNX)
    weights = [onnx_graph.Constants(onnx.load(source.path).graph)[weight.name]
               for weight in onnx_graph.weights(onnx.load(source.path).graph) if weight.layer == kept]  # fmt: skip
    assert weights
    exported = export.quantise(source, TARGETS[precision], case.task, tmp_path, keep_float=(kept,))
    whole = constants(onnx.load(exported.path).graph).values()
    for weight in weights:
        assert any(np.array_equal(weight, array) for array in whole)
        assert not any(np.array_equal(weight, a) for a in constants(onnx.load(case.exported.path).graph).values())
    assert export.check_parity(exported, TARGETS[precision], case.task)
    others = [use for use in exported.operators if use.weights in ("int8", "int4", "fp16")]
    assert others
    if precision is not Precision.FP16:
        assert [use.weights for use in exported.operators if use.why == "kept in float for accuracy"] == ["fp32"]


def test_operators_say_what_they_compute_in(make: Make) -> None:
    cnn = make("cnn", TARGETS[Precision.INT8]).exported.operators
    assert cnn == (
        OperatorUse("Conv", 5, "int8", "int8"),
        OperatorUse("Gemm", 1, "int8", "int8"),
        OperatorUse("GlobalAveragePool", 1, "int8"),
    )
    gru = make("gru", TARGETS[Precision.INT8]).exported.operators
    assert gru == (
        OperatorUse("GRU", 1, "fp32", "int8", "onnxruntime has no integer GRU"),
        OperatorUse("Gemm", 1, "int8", "int8"),
    )
    dynamic = make("cnn", TARGETS[Precision.INT8_DYNAMIC]).exported
    assert dynamic.operators[0] == OperatorUse("Conv", 5, "fp32", "int8", "slower in integers than in float")
    assert dynamic.notes == ("computed in float, only stored as int8: Conv",)
    stored = make("gru", TARGETS[Precision.W4]).exported
    assert stored.operators[0] == OperatorUse("GRU", 1, "fp32", "int4")
    assert stored.notes == ("weights are unpacked when the file is loaded: latency and memory are those of fp32",)
    [softmax] = [u for u in make("transformer", TARGETS[Precision.INT8]).exported.operators if u.operator == "Softmax"]
    assert softmax == OperatorUse("Softmax", 2, "fp32", None, "loses most in eight bits")
    half = make("gru", TARGETS[Precision.FP16]).exported
    assert [(use.operator, use.count, use.weights) for use in half.operators] == [
        ("GRU", 1, "fp16"),
        ("Gemm", 1, "fp16"),
    ]
    # No x86 has a kernel of onnxruntime's for a GRU on halves.
    assert half.operators[0].arithmetic == "fp32"
    assert "GRU" in half.notes[0]


def test_a_wide_lstm_and_every_product_are_integer_with_dynamic_ranges(
    recurrent: tuple[Task, FloatFile], tmp_path: Path
) -> None:
    exported = export.quantise(recurrent[1], TARGETS[Precision.INT8_DYNAMIC], recurrent[0], tmp_path)
    found = optimised(exported.path, tmp_path)
    assert (found["DynamicQuantizeLSTM"], found["LSTM"], found["GRU"]) == (1, 1, 2)
    assert found["DynamicQuantizeMatMul"] == 1
    uses = {(use.operator, use.arithmetic): use for use in exported.operators}
    assert uses["LSTM", "int8"] == OperatorUse("LSTM", 1, "int8", "int8")
    assert uses["LSTM", "fp32"] == OperatorUse(
        "LSTM", 1, "fp32", "int8", "slower in integers than in float at this width"
    )
    assert uses["Gather", "fp32"].weights == "int8"
