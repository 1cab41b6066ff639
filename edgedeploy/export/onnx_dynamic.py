"""Products in integers with ranges taken anew at each inference; what that does not pay for is stored in eight bits."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from edgedeploy.export import onnx_weights
from edgedeploy.export.onnx_graph import Constants, Weight, attribute, layer_of, weights

# Of onnxruntime, as only it has an LSTM of integers.
_CONTRIB = "com.microsoft"
# Measured with one thread, against float: .94 of the speed for 48, 1.2 for 64, 1.5 for 128, 2.5 for 256.
_WIDE_LSTM = 64


def quantise(proto: Any, keep_float: Collection[str]) -> None:
    """Rewrite MatMul, Gemm and wide LSTMs, in place; all other weights are stored in eight bits.

    Convolutions are among those: their kernel without fixed ranges takes 6 to 20 times as long as that in float.
    """
    graph = proto.graph
    constants = Constants(graph)
    ranged: dict[str, tuple[str, str, str]] = {}
    steps_of: dict[str, str] = {}
    nodes = []
    products = {weight.node.name: weight for weight in weights(graph, keep_float) if _is_product(weight, constants)}
    for node in graph.node:
        weight = products.get(node.name)
        if weight is not None:
            nodes += _product(weight, constants, ranged, steps_of)
            continue
        if node.op_type == "LSTM" and _is_wide(node, constants, keep_float):
            nodes += _quantise_lstm(node, constants)
        nodes.append(node)
    kept = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    if any(node.domain == _CONTRIB for node in kept):
        proto.opset_import.add(domain=_CONTRIB, version=1)
    onnx_weights.drop_unused(graph)
    onnx_weights.store(graph, list(weights(graph, keep_float)), 8)


def _is_product(weight: Weight, constants: Constants) -> bool:
    node = weight.node
    plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0 and not attribute(node, "transA", 0)
    return node.op_type in ("MatMul", "Gemm") and weight.position == 1 and constants.rank(weight.name) == 2 and plain


def _product(
    weight: Weight, constants: Constants, ranged: dict[str, tuple[str, str, str]], steps_of: dict[str, str]
) -> list[Any]:
    """DynamicQuantizeLinear, MatMulInteger and what scales its sums: onnxruntime makes one node of them."""
    from onnx import TensorProto, helper

    node, name = weight.node, weight.name
    made: list[Any] = []
    entry, result = node.input[0], node.output[0]
    if entry not in ranged:
        ranged[entry] = (f"{entry}_u8", f"{entry}_step", f"{entry}_zero")
        made.append(helper.make_node("DynamicQuantizeLinear", [entry], ranged[entry]))
    values, step, zero = ranged[entry]
    stored = f"{name}_s8" + ("_t" if weight.axis == 0 else "")
    if stored not in constants:
        levels = onnx_weights.in_eight_bits(constants[name], weight.axis)
        constants.add(stored, levels.values.T if weight.axis == 0 else levels.values)
        steps_of[stored] = onnx_weights.widened(constants, f"{stored}_steps", levels.steps.ravel(), made)
    steps = steps_of[stored]
    biased = node.op_type == "Gemm" and len(node.input) > 2 and node.input[2]
    scaled = f"{result}_scaled" if biased else result
    made += [
        helper.make_node("MatMulInteger", [values, stored, zero], [f"{result}_sums"]),
        helper.make_node("Cast", [f"{result}_sums"], [f"{result}_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [step, steps], [f"{result}_steps"]),
        helper.make_node("Mul", [f"{result}_float", f"{result}_steps"], [scaled]),
    ]
    if biased:
        made.append(helper.make_node("Add", [scaled, node.input[2]], [result]))
    for index, one in enumerate(made):
        one.name = f"{node.name}/{index}"
        one.metadata_props.extend(node.metadata_props)
    return made


def _is_wide(node: Any, constants: Constants, keep_float: Collection[str]) -> bool:
    odd = {"activations", "clip"} & {one.name for one in node.attribute}
    return (
        not odd
        and attribute(node, "layout", 0) == attribute(node, "input_forget", 0) == 0
        and layer_of(node) not in keep_float
        and attribute(node, "hidden_size", 0) >= _WIDE_LSTM
        and all(constants.is_float(name) for name in node.input[1:3])
    )


def _quantise_lstm(node: Any, constants: Constants) -> list[Any]:
    """Change it, and return what goes before it.

    Its weights stand transposed: (directions, inputs, 4 hidden), with a scale for each output.
    """
    inputs = [*node.input, *[""] * (8 - len(node.input))]
    before: list[Any] = []
    more = []
    for position in (1, 2):
        name = inputs[position]
        levels = onnx_weights.in_eight_bits(constants[name], 1)
        inputs[position] = constants.add(f"{name}_s8", np.swapaxes(levels.values, 1, 2))
        shape = levels.steps.shape[:2]
        zeros = constants.add(f"zeros_{'_'.join(map(str, shape))}", np.zeros(shape, np.int8))
        more += [onnx_weights.widened(constants, f"{name}_steps", levels.steps.reshape(shape), before), zeros]
    bias = inputs[onnx_weights.BIAS["LSTM"]]
    if constants.is_float(bias):
        half = onnx_weights.halved_bias(constants[bias])
        inputs[onnx_weights.BIAS["LSTM"]] = onnx_weights.widened(constants, bias, half, before)
    kept = [one for one in node.attribute if one.name != "layout"]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.op_type, node.domain = "DynamicQuantizeLSTM", _CONTRIB
    node.input[:] = [*inputs, *more]
    return before
