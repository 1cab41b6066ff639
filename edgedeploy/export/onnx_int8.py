"""Static int8 and 16x8 for ONNX: Q and DQ where they pay, weights per channel, ranges from the calibration split."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy.errors import ExportError
from edgedeploy.export import onnx_weights
from edgedeploy.export.onnx_graph import Constants, weights
from edgedeploy.export.onnx_places import CORES, fold_stem, integer_nodes, pool_globally
from edgedeploy.export.onnx_ranges import activation_ranges
from edgedeploy.quiet import quiet
from edgedeploy.records import Calibration, Int8Form, Precision, Target
from edgedeploy.task import Task
from edgedeploy.tracing import COMPILER_ERRORS

# vpmaddubsw adds two products of 8 by 8 bits in 16, saturating: 2 x 255 x 64 fits, 2 x 255 x 127 does not.
_SEVEN_BITS = 64
# What a Cast or a Mul, its names and its constant take in the file.
_NODE_BYTES = 40


def quantise(proto: Any, source: Path, target: Target, task: Task, keep_float: Collection[str]) -> Any:
    """Return the quantised graph. Weights that no integer kernel reads are stored in eight bits. Raises ExportError."""
    form = target.form or Int8Form.U8S8
    wide = target.precision is Precision.INT16X8
    graph = proto.graph
    same = pool_globally(graph)
    if form in (Int8Form.U8S8, Int8Form.U8S7) and not wide:
        same |= fold_stem(graph)
    # All that could ever be asked for, so that one calibration does for whatever is kept in float.
    touched = {name for node in integer_nodes(graph, ()) for name in (*node.input, *node.output)}
    nodes = [node.name for node in integer_nodes(graph, keep_float)]
    if nodes:
        wanted = {same.get(name, name) for name in touched}
        ranges = dict(
            activation_ranges(source, wanted, task, target.calibration or Calibration(), 65536 if wide else 256)
        )
        ranges |= {new: ranges[old] for new, old in same.items() if old in ranges}
        _untie(graph, nodes)
        try:
            with quiet():
                proto = _with_pairs(proto, nodes, ranges, form, wide=wide)
        except COMPILER_ERRORS as error:
            raise ExportError(f"onnxruntime cannot quantise the net: {type(error).__name__}: {error}") from error
        _prune(proto.graph, nodes)
        _compact(proto.graph, derive=form is not Int8Form.S8S8_SYMMETRIC)
    onnx_weights.store(proto.graph, list(weights(proto.graph, keep_float)), 8)
    return proto


def _untie(graph: Any, integer: Collection[str]) -> None:
    """Give each kind of user of a shared weight its own copy.

    The quantiser keeps one scale per tensor, cut along the axis that the first user asks for, and hands it to all:
    an embedding tied to the last layer then comes out as a file that no runtime takes.
    """
    constants = Constants(graph)
    first: dict[str, tuple[str, int, int, bool]] = {}
    for weight in list(weights(graph)):
        user = (weight.node.op_type, weight.position, weight.axis, weight.node.name in integer)
        if first.setdefault(weight.name, user) != user:
            copy = "_".join((weight.name, "of", *map(str, user)))
            weight.node.input[weight.position] = constants.add(copy, constants[weight.name])


def _with_pairs(proto: Any, nodes: list[str], ranges: dict[str, Any], form: Int8Form, *, wide: bool) -> Any:
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import save_and_reload_model_with_shape_infer

    unsigned = form in (Int8Form.U8S8, Int8Form.U8S7, Int8Form.U8U8)
    narrow_type = QuantType.QUInt8 if unsigned else QuantType.QInt8
    wide_type = QuantType.QUInt16 if unsigned else QuantType.QInt16
    weight_type = QuantType.QUInt8 if form is Int8Form.U8U8 else QuantType.QInt8
    options = {
        "ActivationSymmetric": form is Int8Form.S8S8_SYMMETRIC,
        "TensorQuantOverrides": _steps(proto.graph, nodes, weight_type, _SEVEN_BITS if form is Int8Form.U8S7 else 127),
    }
    seen = {name: tuple(np.array(end, np.float32) for end in ends) for name, ends in ranges.items()}
    types = sorted({node.op_type for node in proto.graph.node})
    quantiser = QDQQuantizer(
        save_and_reload_model_with_shape_infer(proto), True, False, weight_type, wide_type if wide else narrow_type,
        TensorsData(CalibrationMethod.MinMax, seen), nodes, [], types, options,
    )  # fmt: skip
    quantiser.quantize_model()
    quantiser.model.topological_sort()
    return quantiser.model.model


def _steps(graph: Any, nodes: Collection[str], weight_type: Any, most: int) -> dict[str, list[dict[str, Any]]]:
    """Our own scale for each channel of each weight, for levels up to `most`, as onnxruntime's quantiser takes them."""
    from onnxruntime.quantization import QuantType

    constants = Constants(graph)
    zero = np.uint8(128) if weight_type == QuantType.QUInt8 else np.int8(0)
    found = {}
    for weight in weights(graph):
        if weight.node.name in nodes:
            eight = onnx_weights.in_eight_bits(constants[weight.name], weight.axis)
            others = tuple(axis for axis in range(eight.values.ndim) if axis != weight.axis)
            # Few trained levels fit as they are.
            peaks = np.abs(eight.values.astype(np.float32)).max(axis=others)
            steps = (eight.steps.ravel() * np.maximum(peaks / most, 1)).astype(np.float32)
            found[weight.name] = [
                {"quant_type": weight_type, "axis": weight.axis, "scale": step, "zero_point": zero} for step in steps
            ]
    return found


def _prune(graph: Any, integer: Collection[str]) -> None:
    """Take away the pairs of Q and DQ that no integer kernel reads, and lead floats around the others."""
    producers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    gone = []
    for pair in [node for node in graph.node if node.op_type == "DequantizeLinear"]:
        quantise = producers.get(pair.input[0])
        if quantise is None:  # a weight
            continue
        source = producers.get(quantise.input[0])
        made = source is not None and source.name in integer
        users = readers.get(pair.output[0], [])
        idle = not any(user.name in integer for user in users)
        if source is not None and made and (source.op_type not in ("Gemm", "MatMul") or not idle):
            continue
        real = quantise.input[0]
        for user in users:
            if user.name not in integer:
                user.input[:] = [real if name == pair.output[0] else name for name in user.input]
        if idle:
            gone += [quantise, pair]
            if pair.output[0] in outputs and source is not None:
                source.output[:] = [pair.output[0] if name == real else name for name in source.output]
                for user in readers.get(real, []) + users:
                    user.input[:] = [pair.output[0] if name == real else name for name in user.input]
    for node in gone:
        graph.node.remove(node)
    onnx_weights.drop_unused(graph)


def _compact(graph: Any, *, derive: bool) -> None:
    """Leave out zero points of zero, keep each constant once, and, where asked to, derive some from others.

    A bias's scale is its input's times its weight's, and its integers are its halves over that. All that folds when
    the file is loaded.
    """
    from onnx import TensorProto, helper

    constants = Constants(graph)
    producers = {name: node for node in graph.node for name in node.output}
    halves: dict[str, str] = {}
    nodes = []
    # The kernel of Gemm, alone, asks for its weight's zero point.
    needed = {node.input[1] for node in graph.node if node.op_type == "Gemm"}
    for node in graph.node:
        stored = node.op_type == "DequantizeLinear" and node.input[0] in constants and len(node.input) > 2
        if stored and not constants[node.input[2]].any() and node.output[0] not in needed:
            del node.input[2:]
    for node in graph.node:
        if not derive or node.op_type not in CORES or len(node.input) < 3:
            continue
        pairs = [producers[name] for name in node.input[:3] if name in producers]
        if len(pairs) < 3 or any(one.op_type != "DequantizeLinear" for one in pairs):
            continue
        entry, weight, bias = pairs
        derived = constants[entry.input[1]] * constants[weight.input[1]]
        if derived.nbytes > _NODE_BYTES and np.array_equal(derived, constants[bias.input[1]]):
            name = f"{bias.input[1]}_derived"
            nodes.append(helper.make_node("Mul", [entry.input[1], weight.input[1]], [name]))
            bias.input[1] = name
            nodes += _halve_bias(constants, bias, derived)
    for node in graph.node:
        if not derive or node.op_type != "DequantizeLinear" or node.input[1] not in constants:
            continue
        steps = constants[node.input[1]]
        short = steps.astype(np.float16)
        if steps.nbytes - short.nbytes > _NODE_BYTES and np.array_equal(short.astype(np.float32), steps):
            halves[node.input[1]] = constants.add(f"{node.input[1]}_half", short)
    for name, half in halves.items():
        nodes.insert(0, helper.make_node("Cast", [half], [f"{name}_wide"], to=TensorProto.FLOAT))
    for node in (*nodes, *graph.node):
        node.input[:] = [f"{name}_wide" if name in halves else name for name in node.input]
    kept = [type(node).FromString(node.SerializeToString()) for node in (*nodes, *graph.node)]
    del graph.node[:]
    graph.node.extend(kept)
    _share(graph)


def _halve_bias(constants: Constants, bias: Any, steps: np.ndarray) -> list[Any]:
    """Nodes that make a bias's integers (int32) of halves, where those are smaller with them.

    A half is off by 1/2048 of the bias at most, far below what eight bits do to the sum that it goes to.
    """
    from onnx import TensorProto, helper

    name = bias.input[0]
    real = constants[name] * steps
    if real.nbytes // 2 <= 4 * _NODE_BYTES or np.abs(real).max() > np.finfo(np.float16).max:
        return []
    half = constants.add(f"{name}_half", real.astype(np.float16))
    bias.input[0] = f"{name}_levels"
    return [
        helper.make_node("Cast", [half], [f"{name}_real"], to=TensorProto.FLOAT),
        helper.make_node("Div", [f"{name}_real", bias.input[1]], [f"{name}_steps"]),
        helper.make_node("Round", [f"{name}_steps"], [f"{name}_whole"]),
        helper.make_node("Cast", [f"{name}_whole"], [bias.input[0]], to=TensorProto.INT32),
    ]


def _share(graph: Any) -> None:
    from onnx import numpy_helper

    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    names: dict[str, str] = {}
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        names[tensor.name] = first.setdefault((tensor.data_type, array.shape, array.tobytes()), tensor.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    onnx_weights.drop_unused(graph)
