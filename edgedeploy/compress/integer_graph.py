"""Where a net is rounded to eight bits while it trains: the places at which an integer kernel reads or writes."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, cast

from edgedeploy.compress.rounding import rounding_of_activations, rounding_of_weights

if TYPE_CHECKING:
    from torch import fx, nn

# Both ONNX Runtime and LiteRT have integer kernels for these.
WITH_WEIGHTS = frozenset(("conv1d.default", "conv1d.padding", "conv2d.default", "conv2d.padding", "linear.default"))
_OF_TENSORS = frozenset(("add.Tensor", "sub.Tensor", "mul.Tensor", "matmul.default", "bmm.default"))
# They follow at once what they are fused into, so that only what they let through needs to be told apart.
_CLAMPS = frozenset(("relu.default", "relu_.default", "relu6.default", "hardtanh.default", "hardtanh_.default"))
# They hand on what they are given, so that it keeps its scale. Means of a window stay within its range.
_CARRIERS = frozenset(
    (
        *_CLAMPS,
        *("view.default", "reshape.default", "flatten.using_ints", "unflatten.int", "contiguous.default"),
        *("permute.default", "transpose.int", "t.default", "select.int", "slice.Tensor", "expand.default"),
        *("squeeze.default", "squeeze.dim", "squeeze.dims", "unsqueeze.default", "clone.default", "dropout.default"),
        *("max_pool1d.default", "max_pool2d.default", "constant_pad_nd.default", "upsample_nearest2d.vec"),
        *("adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default", "avg_pool1d.default", "avg_pool2d.default"),
    )
)
_MEANS = frozenset(("mean.dim",))
_SOFTMAX = frozenset(("softmax.int", "scaled_dot_product_attention.default"))
MASKS = frozenset(("masked_fill.Scalar", "masked_fill_.Scalar"))
_ON_THE_WAY = frozenset((*MASKS, "add.Tensor", "sub.Tensor", "mul.Tensor", *_CARRIERS))
# What the kernels of LiteRT ask for: https://ai.google.dev/edge/litert/models/quantization_spec
_FIXED = {"softmax.int": (1 / 256, -128), "sigmoid.default": (1 / 256, -128), "tanh.default": (1 / 128, 0)}


def operator(node: fx.Node) -> str:
    """`conv2d.default` for a call of aten's operator, "" for any other node."""
    text = str(node.target) if node.op == "call_function" else ""
    return text.removeprefix("aten.") if text.startswith("aten.") else ""


def weights(graph: fx.Graph) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Each constant that an integer kernel takes as weights, with the node that takes it."""
    for node in graph.nodes:
        if operator(node) in WITH_WEIGHTS and node.args[1].op == "get_attr":
            yield node, node.args[1]


def insert_roundings(module: fx.GraphModule) -> int:
    """Round, in place, all that integer kernels read and write; return the number of kernels with weights."""
    taken = list(weights(module.graph))
    weight_nodes = {weight for _, weight in taken}
    roundings = _roundings(module.graph, weight_nodes)
    roundings |= {weight: rounding_of_weights() for weight in weight_nodes}
    for node in list(module.graph.nodes):
        if node in roundings:
            _round_after(module, node, roundings[node])
    module.recompile()
    return len(taken)


def _roundings(graph: fx.Graph, weight_nodes: set[fx.Node]) -> dict[fx.Node, nn.Module]:
    """The rounding of each node's output; nodes that only carry one on share it."""
    rounding: dict[fx.Node, nn.Module] = {}

    def need(node: Any) -> None:
        source = node
        while operator(source) in _CARRIERS and not _fused(source) and source not in rounding:
            source = source.args[0]
        if source not in weight_nodes and source not in rounding and is_float(source):
            rounding[source] = rounding_of_activations(_FIXED.get(operator(source)))

    for node in graph.nodes:
        name = operator(node)
        if name in WITH_WEIGHTS and node.args[1] in weight_nodes:
            need(node.args[0])
            need(_fusing(node))
        elif name in _MEANS or (name in _OF_TENSORS and _takes_tensors(node) and not goes_into_softmax(node)):
            for argument in node.args[: 1 if name in _MEANS else 2]:
                need(argument)
            need(_fusing(node))
    for node in graph.nodes:
        if node not in rounding and operator(node) in _CARRIERS and node.args[0] in rounding:
            rounding[node] = rounding[node.args[0]]
    return rounding


def _takes_tensors(node: fx.Node) -> bool:
    """Whether it combines two floats; with a number, as a scale before softmax, it stays in float."""
    return not node.kwargs and all(is_float(argument) for argument in node.args)


def goes_into_softmax(node: fx.Node) -> bool:
    """Whether all that is made of it goes into softmax, as a mask does: its minus infinity has no int8."""

    def ends_there(user: fx.Node) -> bool:
        name = operator(user)
        return name in _SOFTMAX or (name in _ON_THE_WAY and len(user.users) > 0 and all(map(ends_there, user.users)))

    return operator(node) in _ON_THE_WAY and ends_there(node)


def is_float(node: Any) -> bool:
    """Whether it is a node whose value is a floating-point tensor with at least one axis."""
    from torch import fx

    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value is not None and hasattr(value, "dtype") and value.dtype.is_floating_point and value.ndim > 0


def _fusing(node: fx.Node) -> fx.Node:
    """The clamp that alone takes the node's output and is fused into it, or the node itself."""
    users = list(node.users)
    return users[0] if len(users) == 1 and operator(users[0]) in _CLAMPS else node


def _fused(node: fx.Node) -> bool:
    source = node.args[0]
    return (
        operator(node) in _CLAMPS
        and operator(source) in WITH_WEIGHTS | _OF_TENSORS  # type: ignore[arg-type]
        and _fusing(source) is node  # type: ignore[arg-type]
    )


def _round_after(module: fx.GraphModule, node: fx.Node, rounding: nn.Module) -> None:
    name = f"round_{node.name}"
    users = list(node.users)
    module.add_submodule(name, rounding)
    with module.graph.inserting_after(node):
        rounded = module.graph.call_module(name, (node,))
    rounded.meta["val"] = node.meta["val"]
    for user in users:
        user.replace_input_with(node, rounded)


def set_mode(module: fx.GraphModule, mode: Literal["watch", "learn", "keep"]) -> None:
    """Tell all roundings whether to see the range, follow it, or leave it as it is."""
    for child in module.children():
        if hasattr(child, "mode"):
            child.mode = mode  # type: ignore[assignment]


def without_bounds(module: fx.GraphModule) -> list[str]:
    """The nodes whose range is not finite."""
    ranges = {name: getattr(child, "range", None) or (0.0, 0.0) for name, child in module.named_children()}
    return [name.removeprefix("round_") for name, bounds in ranges.items() if not all(map(math.isfinite, bounds))]


def constant(module: fx.GraphModule, node: fx.Node | None) -> Any:
    """The parameter or buffer that a node stands for, None for None."""
    if node is None:
        return None
    return functools.reduce(getattr, str(node.target).split("."), module)


def to_quantise_operators(module: fx.GraphModule) -> None:
    """Replace, in place, each rounding by the quantise and dequantise operators that the exporters know.

    They stand in torch's namespace `quantized_decomposed`; all numbers are int8, scales float32.
    """
    import torch
    from torch.ao.quantization.fx import _decomposed  # registers the operators

    ops = torch.ops.quantized_decomposed
    _settle(module)
    for node in list(module.graph.nodes):
        if node.op != "call_module":
            continue
        rounding: Any = module.get_submodule(str(node.target))
        source = cast("fx.Node", node.args[0])
        scale, zero_point = rounding.scale, rounding.zero_point
        with module.graph.inserting_before(node):
            if rounding.axis is None:
                settings = (float(scale), int(zero_point), -128, 127, torch.int8)
                quantise, dequantise = ops.quantize_per_tensor.default, ops.dequantize_per_tensor.default
            else:
                module.register_buffer(f"{node.target}_scale", scale)
                module.register_buffer(f"{node.target}_zero_point", zero_point.to(torch.int64))
                held = (module.graph.get_attr(f"{node.target}_{part}") for part in ("scale", "zero_point"))
                settings = (*held, rounding.axis, -127, 127, torch.int8)
                quantise, dequantise = ops.quantize_per_channel.default, ops.dequantize_per_channel.default
            integers = module.graph.call_function(quantise, (source, *settings))
            floats = module.graph.call_function(dequantise, (integers, *settings))
        node.replace_all_uses_with(floats)
        module.graph.erase_node(node)
    for node in module.graph.nodes:
        node.meta.clear()  # shapes and sources of before, which would be copied with the net
    for name in list(dict(module.named_modules(remove_duplicate=False))):
        if hasattr(module.get_submodule(name), "mode"):
            module.delete_submodule(name)
    vars(module)["registers_operators"] = (
        _decomposed.quantize_per_tensor
    )  # by import, where the net is read back from a file
    module.recompile()


def _settle(module: fx.GraphModule) -> None:
    """Put weights onto their grid, and biases onto that of the sums they go into, where kernels have them.

    No exporter then rounds one that lies midway to another side, and the net computes what its files compute.
    """
    import torch

    with torch.no_grad():
        for node in module.graph.nodes:
            if operator(node) not in WITH_WEIGHTS or any(source.op != "call_module" for source in node.args[:2]):
                continue
            values, weight = (cast("Any", module.get_submodule(source.target)) for source in node.args[:2])
            parameter = constant(module, node.args[1].args[0])
            parameter.copy_(weight(parameter))
            bias = node.args[2] if len(node.args) > 2 else None
            if bias is not None and bias.op == "get_attr" and len(bias.users) == 1:
                step = values.scale.double() * weight.scale.double()
                parameter = constant(module, bias)
                parameter.copy_((parameter.double() / step).round().clamp(-(2**31) + 1, 2**31 - 1) * step)
