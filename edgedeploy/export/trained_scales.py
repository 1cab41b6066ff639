"""A net that was trained for int8 brings its scales along: they are written as they are, with no calibration."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedeploy.errors import ExportError
from edgedeploy.export import onnx_operators
from edgedeploy.records import Int8Form, OperatorUse, Precision, Target

if TYPE_CHECKING:
    from torch import nn

_BIAS_LIMIT = 2**31 - 1


def are_in(model: nn.Module) -> bool:
    """Whether the net is one that quantise-aware made: a graph that quantises and dequantises."""
    from torch import fx

    return isinstance(model, fx.GraphModule) and any(
        str(node.target).startswith("quantized_decomposed.") for node in model.graph.nodes
    )


def litert_settings() -> Any:
    """What litert-torch needs to be told, so that it turns quantise and dequantise around a kernel into integers."""
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    settings = get_symmetric_quantization_config(is_per_channel=True, is_qat=True)
    return QuantConfig(pt2e_quantizer=PT2EQuantizer().set_global(settings))


def check_target(target: Target) -> None:
    """Raise ExportError unless the target can hold the scales that were trained."""
    if target.precision is not Precision.INT8:
        raise ExportError('the net was trained for int8; ask for precisions = ["int8"]')
    if target.form is not None and not target.form.trainable:
        *others, last = (form for form in Int8Form if form.trainable)
        raise ExportError(
            f"the net was trained with zero points and weights of eight bits, which {target.form} does not hold; "
            f"take {', '.join(others)} or {last}"
        )


def are_in_onnx(proto: Any) -> bool:
    """Whether a converted file already quantises: one that was trained in float does not."""
    return any(node.op_type == "QuantizeLinear" for node in proto.graph.node)


def are_in_tflite(model: Any) -> bool:
    """Whether a converted file already holds integers with a scale: one that was trained in float does not."""
    tensors = (tensor for graph in model.subgraphs for tensor in graph.tensors)
    return any(tensor.quantization is not None and tensor.quantization.scale is not None for tensor in tensors)


def told(uses: tuple[OperatorUse, ...]) -> tuple[OperatorUse, ...]:
    """What became of the operators of a TFLite file, with the reason for floats where nothing was calibrated."""
    return tuple(replace(use, why="it was trained in float") if use.why else use for use in uses)


def operators(proto: Any) -> tuple[OperatorUse, ...]:
    """What became of the operators of a graph that `to_onnx` returned. Raises ExportError where the runtime refuses."""
    uses = onnx_operators.read_back(proto, proto, Precision.INT8, ())
    weighted = {"Conv", "Gemm"} | {
        node.op_type for node in proto.graph.node if node.op_type == "MatMul" and _takes_weights(proto, node)
    }
    return tuple(replace(use, weights="int8") if use.operator in weighted else use for use in uses)


def _takes_weights(proto: Any, node: Any) -> bool:
    constants = {tensor.name for tensor in proto.graph.initializer}
    sources = {name: made.input[0] for made in proto.graph.node for name in made.output if made.input}
    return any(sources.get(name) in constants for name in node.input)


def to_onnx(proto: Any, target: Target) -> Any:
    """Return the converted graph with int8 weights, int32 biases and activations as the target's form says.

    The exporter leaves float weights to be quantised anew at each inference, biases in float, and signed activations.
    uint8 with the zero point 128 higher is the same number. Changes `proto` in place. Raises ExportError where the
    target cannot be had.
    """
    check_target(target)
    form = target.form or Int8Form.U8S8
    graph = _Graph(proto)
    graph.fold_constants()
    graph.fold_transposes()
    graph.quantise_biases()
    graph.drop_clamps()
    if form is not Int8Form.S8S8:
        graph.make_unsigned(weights=form is Int8Form.U8U8)
    graph.drop_unused()
    return proto


class _Graph:
    """An ONNX graph while its constants are rewritten."""

    def __init__(self, proto: Any) -> None:
        import onnx

        self._helper, self._numpy = onnx.helper, onnx.numpy_helper
        self._graph = proto.graph
        self._constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
        for node in list(proto.graph.node):
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._add(node.output[0], onnx.numpy_helper.to_array(node.attribute[0].t))
                proto.graph.node.remove(node)

    def _add(self, name: str, values: np.ndarray) -> str:
        if name not in self._constants:
            self._constants[name] = values
            self._graph.initializer.append(self._numpy.from_array(np.asarray(values, order="C"), name))
        return name

    def _producers(self) -> dict[str, Any]:
        return {name: node for node in self._graph.node for name in node.output}

    def _users(self, name: str) -> list[Any]:
        return [node for node in self._graph.node if name in node.input]

    def _replace(self, name: str, other: str) -> None:
        for node in self._users(name):
            node.input[:] = [other if one == name else one for one in node.input]

    def _scale_of(self, node: Any) -> np.ndarray:
        scale: np.ndarray = self._constants[node.input[1]]
        return scale

    def fold_constants(self) -> None:
        for node in list(self._graph.node):
            if node.op_type != "QuantizeLinear" or node.input[0] not in self._constants:
                continue
            values, scale, zero_point = (self._constants[name] for name in node.input[:3])
            lowest = -128
            if scale.ndim:
                scale, zero_point = (_along(one, values.ndim, _axis(node)) for one in (scale, zero_point))
                lowest = -127
            levels = np.rint(values / scale) + zero_point
            name = self._add(f"{node.input[0]}_levels_{node.output[0]}", np.clip(levels, lowest, 127).astype(np.int8))
            self._replace(node.output[0], name)
            self._graph.node.remove(node)
            for clip in self._users(name):
                if clip.op_type == "Clip":
                    self._replace(clip.output[0], name)
                    self._graph.node.remove(clip)

    def fold_transposes(self) -> None:
        """Turn constants themselves: onnxruntime takes a matrix as integers only where it stands ready."""
        producers = self._producers()
        for node in list(self._graph.node):
            source = producers.get(node.input[0]) if node.op_type == "Transpose" else None
            if source is None or source.op_type != "DequantizeLinear" or source.input[0] not in self._constants:
                continue
            order = list(node.attribute[0].ints)
            levels = self._add(f"{source.input[0]}_turned_{'_'.join(map(str, order))}", self._turned(source, order))
            turned = self._helper.make_node(
                "DequantizeLinear", [levels, *source.input[1:]], list(node.output), axis=_turned_axis(source, order)
            )
            self._graph.node.insert(list(self._graph.node).index(node), turned)
            self._graph.node.remove(node)

    def _turned(self, source: Any, order: list[int]) -> np.ndarray:
        turned: np.ndarray = self._constants[source.input[0]].transpose(order)
        return turned

    def quantise_biases(self) -> None:
        """int32 in steps of input step times weight step, as integer kernels add them."""
        producers = self._producers()
        for node in list(self._graph.node):
            if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3 or node.input[2] not in self._constants:
                continue
            sources = [producers.get(name) for name in node.input[:2]]
            if any(source is None or source.op_type != "DequantizeLinear" for source in sources):
                continue
            steps = self._scale_of(sources[0]) * self._scale_of(sources[1])
            levels = np.rint(self._constants[node.input[2]].astype(np.float64) / steps)
            name = f"{node.input[2]}_of_{node.output[0]}"
            self._add(f"{name}_levels", np.clip(levels, -_BIAS_LIMIT, _BIAS_LIMIT).astype(np.int32))
            self._add(f"{name}_scale", steps.astype(np.float32))
            inputs = [f"{name}_levels", f"{name}_scale"]
            self._graph.node.insert(
                list(self._graph.node).index(node), self._helper.make_node("DequantizeLinear", inputs, [name], axis=0)
            )
            node.input[2] = name

    def drop_clamps(self) -> None:
        """Leave out what the quantisation that follows cuts off anyway: some kernels are fused without it alone."""
        for node in list(self._graph.node):
            users = self._users(node.output[0])
            if node.op_type not in ("Relu", "Clip") or [user.op_type for user in users] != ["QuantizeLinear"]:
                continue
            scale, zero_point = (self._constants[name].astype(np.float64) for name in users[0].input[1:3])
            limits = [self._constants.get(name, np.float32(np.nan)) for name in node.input[1:]]
            low, high = limits if node.op_type == "Clip" else (0.0, np.inf)
            if (-128 - zero_point) * scale >= low and (127 - zero_point) * scale <= high * (1 + 1e-6):
                users[0].input[0] = node.input[0]
                self._graph.node.remove(node)

    def make_unsigned(self, *, weights: bool) -> None:
        for node in self._graph.node:
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
                continue
            if self._scale_of(node).ndim and not weights:
                continue
            positions = (0, 2) if node.input[0] in self._constants else (2,)
            for position in positions:
                before = self._constants[node.input[position]]
                assert before.dtype == np.int8
                name = f"{node.input[position]}_unsigned"
                node.input[position] = self._add(name, (before.astype(np.int16) + 128).astype(np.uint8))

    def drop_unused(self) -> None:
        outputs = {value.name for value in self._graph.output}
        used = outputs | {name for node in self._graph.node for name in node.input}
        while dead := [node for node in self._graph.node if not used.intersection(node.output)]:
            for node in dead:
                self._graph.node.remove(node)
            used = outputs | {name for node in self._graph.node for name in node.input}
        for tensor in list(self._graph.initializer):
            if tensor.name not in used:
                self._graph.initializer.remove(tensor)


def _axis(node: Any) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "axis"), 1)


def _turned_axis(node: Any, order: list[int]) -> int:
    return order.index(_axis(node) % len(order))


def _along(values: np.ndarray, dimensions: int, axis: int) -> np.ndarray:
    shape = [1] * dimensions
    shape[axis] = -1
    return values.reshape(shape)
