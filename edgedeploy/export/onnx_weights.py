"""Weights stored in eight or four bits and rebuilt by nodes that onnxruntime folds when it loads the file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgedeploy.export.grid import grid_of
from edgedeploy.export.onnx_graph import Constants, Weight

# Weights in four bits share a scale by as many along the input axis.
_BLOCK = 32
# What the nodes and names that rebuild a weight take in the file.
_NODES_BYTES = {8: 100, 4: 240}
_HALF_BYTES = 40
_SMALLEST_HALF, _LARGEST_HALF = 2.0**-14, 65504.0
# Where each operator's bias stands among its inputs.
BIAS = {"Conv": 2, "ConvTranspose": 2, "GRU": 3, "Gemm": 2, "LSTM": 3, "RNN": 3}


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """A weight as integers: `values` (int8) times `steps`, which are float16 or float32 and broadcast to it."""

    values: np.ndarray
    steps: np.ndarray


def in_eight_bits(array: np.ndarray, axis: int) -> Levels:
    """One step for each output channel, no zero point; trained levels as they are."""
    grid = grid_of(array, axis)
    shape = [size if at == axis else 1 for at, size in enumerate(array.shape)]
    if grid is not None:
        return Levels(grid.levels, _as_half(grid.step.reshape(shape), exactly=True))
    peaks = np.abs(array).max(axis=tuple(at for at in range(array.ndim) if at != axis), keepdims=True)
    # Rounded first, so that the levels are those of the step that is stored.
    steps = _as_half(np.where(peaks > 0, peaks / 127, 1).astype(np.float32))
    return Levels(np.rint(array / steps.astype(np.float32)).clip(-127, 127).astype(np.int8), steps)


def in_four_bits(array: np.ndarray, axis: int) -> Levels:
    """One step for each block of the input axis, of the shape that `_in_blocks` gives; trained levels as they are."""
    grid = grid_of(array, axis)
    if grid is not None and grid.bits <= 4:
        shape = [size if at == axis else 1 for at, size in enumerate(array.shape)]
        return Levels(grid.levels, _as_half(grid.step.reshape(shape), exactly=True))
    blocks, along = _in_blocks(array, axis)
    # The largest magnitude is level -8, whatever its sign, so that all sixteen are used (as ggml's Q4_0). Of several
    # steps a little finer than that, each block takes the one of least squared error.
    at = np.abs(blocks).argmax(axis=along, keepdims=True)
    peaks = np.take_along_axis(blocks, at, along)
    best = values = errors = np.zeros(0)
    for finer in (1.0, 0.95, 0.9, 0.85, 0.8, 0.75):
        steps = _as_half(np.where(peaks != 0, peaks * (finer / -8), 1).astype(np.float32))
        levels = np.rint(blocks / steps.astype(np.float32)).clip(-8, 7)
        error = ((levels * steps.astype(np.float32) - blocks) ** 2).sum(axis=along, keepdims=True)
        if best.size == 0:
            best, values, errors = steps, levels, error
            continue
        better = error < errors
        best, values, errors = (
            np.where(better, new, old) for new, old in ((steps, best), (levels, values), (error, errors))
        )
    return Levels(values.astype(np.int8), best)


def store(graph: Any, weights: Iterable[Weight], bits: int) -> None:
    """Replace float weights, in place, where that makes the file smaller, and halve the biases beside them."""
    weights = list(weights)
    constants = Constants(graph)
    nodes = _halve_biases(graph, constants, weights)
    rebuilt: dict[tuple[str, int], str | None] = {}
    for weight in weights:
        key = (weight.name, weight.axis)
        if key not in rebuilt:
            name = f"{weight.name}_{bits}bit" + (f"_{weight.axis}" if (weight.name, 1 - weight.axis) in rebuilt else "")
            made = _rebuild(constants, name, constants[weight.name], weight.axis, bits)
            rebuilt[key] = name if made else None
            nodes += made
        result = rebuilt[key]
        if result is not None:
            weight.node.input[weight.position] = result
    kept = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *kept])
    drop_unused(graph)


def _halve_biases(graph: Any, constants: Constants, weights: Iterable[Weight]) -> list[Any]:
    products = {weight.node.output[0] for weight in weights if weight.node.op_type == "MatMul"}
    places = [(weight.node, BIAS[weight.node.op_type]) for weight in weights if weight.node.op_type in BIAS]
    sums = [node for node in graph.node if node.op_type == "Add" and products.intersection(node.input)]
    places += [(node, 1 if node.input[0] in products else 0) for node in sums]
    nodes: list[Any] = []
    for node, position in places:
        name = node.input[position] if position < len(node.input) else ""
        if constants.is_float(name) and halved_bias(constants[name]).dtype == np.float16:
            node.input[position] = widened(constants, name, halved_bias(constants[name]), nodes)
    return nodes


def widened(constants: Constants, name: str, array: np.ndarray, nodes: list[Any]) -> str:
    """Add a constant, and to `nodes` the Cast that makes floats of halves; returns the tensor of floats."""
    from onnx import TensorProto, helper

    if array.dtype != np.float16:
        return constants.add(name, array)
    if f"{name}_half" not in constants:
        constants.add(f"{name}_half", array)
        nodes.append(helper.make_node("Cast", [f"{name}_half"], [f"{name}_wide"], to=TensorProto.FLOAT))
    return f"{name}_wide"


def halved_bias(array: np.ndarray) -> np.ndarray:
    """As float16 where that pays: what it rounds off is far below what eight bits do to the weights."""
    pays = array.nbytes // 2 > _HALF_BYTES and np.abs(array).max() <= _LARGEST_HALF
    return array.astype(np.float16) if pays else array


def drop_unused(graph: Any) -> None:
    """Take away the constants that no node reads."""
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    unused = [tensor for tensor in graph.initializer if tensor.name not in used]
    for tensor in unused:
        graph.initializer.remove(tensor)


def _rebuild(constants: Constants, name: str, array: np.ndarray, axis: int, bits: int) -> list[Any]:
    """The nodes that give the weight, as `name`; none where it is smaller as it is."""
    if bits == 4 and array.size % 2 == 0:
        levels = in_four_bits(array, axis)
        if array.size // 2 + levels.steps.nbytes + _NODES_BYTES[4] < array.nbytes // 4:
            return _unpack(constants, name, levels, array.shape)
    levels = in_eight_bits(array, axis)
    if levels.values.nbytes + levels.steps.nbytes + _NODES_BYTES[8] >= array.nbytes:
        return []
    constants.add(f"{name}_levels", levels.values)
    return _scale(constants, name, f"{name}_levels", levels.steps)


def _scale(constants: Constants, name: str, levels: str, steps: np.ndarray) -> list[Any]:
    """Integers times steps: Cast and Mul, which fold, where DequantizeLinear does not."""
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Cast", [levels], [f"{name}_float"], to=TensorProto.FLOAT)]
    stored = widened(constants, f"{name}_steps", steps, nodes)
    return [*nodes, helper.make_node("Mul", [f"{name}_float", stored], [name])]


def _unpack(constants: Constants, name: str, levels: Levels, shape: tuple[int, ...]) -> list[Any]:
    """Two levels in a byte: the first half of the weight in the low bits, the second in the high ones."""
    from onnx import helper

    values = (levels.values.astype(np.int16) + 8).astype(np.uint8)
    if values.shape[0] % 2:
        values = values.ravel()
    half = values.shape[0] // 2
    constants.add(f"{name}_packed", values[:half] | values[half:] << 4)
    four, sixteen = constants.add("four", np.array(4, np.uint8)), constants.add("sixteen", np.array(16, np.uint8))
    eight = constants.add("eight", np.array(8, np.float32))
    nodes = [
        helper.make_node("Mod", [f"{name}_packed", sixteen], [f"{name}_low"]),
        helper.make_node("BitShift", [f"{name}_packed", four], [f"{name}_high"], direction="RIGHT"),
        helper.make_node("Concat", [f"{name}_low", f"{name}_high"], [f"{name}_levels"], axis=0),
    ]
    scaled = _scale(constants, f"{name}_scaled", f"{name}_levels", levels.steps)
    # Levels are from -8 on, bytes from 0.
    centred = helper.make_node("Sub", [f"{name}_scaled_float", eight], [f"{name}_centred"])
    scaled[-1].input[0] = f"{name}_centred"
    nodes += [scaled[0], centred]
    if values.ndim != levels.values.ndim:
        blocks = constants.add(f"{name}_blocks", np.array(levels.values.shape))
        nodes.append(helper.make_node("Reshape", [f"{name}_centred", blocks], [f"{name}_blocked"]))
        scaled[-1].input[0] = f"{name}_blocked"
    nodes += scaled[1:]
    if levels.values.shape == shape:
        nodes[-1].output[0] = name
        return nodes
    whole = constants.add(f"{name}_shape", np.array(shape))
    return [*nodes, helper.make_node("Reshape", [f"{name}_scaled", whole], [name])]


def _in_blocks(array: np.ndarray, axis: int) -> tuple[np.ndarray, int]:
    """The weight with an axis along which a step is shared, and that axis."""
    if axis == array.ndim - 1:  # inputs before outputs, as MatMul has them
        inputs = int(np.prod(array.shape[:-1]))
        block = _BLOCK if inputs % _BLOCK == 0 else inputs
        return array.reshape(inputs // block, block, array.shape[-1]), 1
    outputs = int(np.prod(array.shape[: axis + 1]))
    inputs = array.size // outputs
    block = _BLOCK if inputs % _BLOCK == 0 else inputs
    return array.reshape(outputs, inputs // block, block), 2


def _as_half(steps: np.ndarray, *, exactly: bool = False) -> np.ndarray:
    """In float16 where nothing is lost that the levels cannot make up for."""
    with np.errstate(over="ignore"):
        half = steps.astype(np.float16)
    if exactly:
        return half if np.array_equal(half.astype(np.float32), steps) else steps
    fine = np.isfinite(half) & (np.abs(half) >= _SMALLEST_HALF)
    return half if fine.all() else steps
