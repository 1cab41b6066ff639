"""A traced net is rewritten before its numbers are rounded, into operators that have integer kernels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from edgedeploy.compress.integer_graph import MASKS, WITH_WEIGHTS, constant, goes_into_softmax, is_float, operator

if TYPE_CHECKING:
    from torch import fx

_MASKED = -1e4


def set_dropout(module: fx.GraphModule, *, active: bool) -> None:
    """Let dropout work, or not: once traced, it does not heed train() and eval()."""
    for node in module.graph.nodes:
        if operator(node) == "dropout.default":
            node.args = (*node.args[:2], active)
    module.recompile()


def fold_batch_norms(module: fx.GraphModule) -> None:
    """Fold, in place, each batch norm into the convolution or linear layer that it follows, with its statistics."""
    from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

    for node in list(module.graph.nodes):
        if operator(node) != "batch_norm.default":
            continue
        layer: Any
        layer, *constants = node.args[:5]
        if not _foldable(layer, constants):
            continue
        fuse = fuse_linear_bn_weights if operator(layer) == "linear.default" else fuse_conv_bn_weights
        weight, bias = layer.args[1], layer.args[2] if len(layer.args) > 2 else None
        scale, shift, mean, variance = (constant(module, one) for one in constants)
        folded = fuse(constant(module, weight), constant(module, bias), mean, variance, node.args[7], scale, shift)
        _set_constant(module, weight.target, folded[0])
        if bias is None:
            target = f"{weight.target.rpartition('.')[0]}.bias".lstrip(".")
            _set_constant(module, target, folded[1])
            with module.graph.inserting_before(layer):
                bias = module.graph.get_attr(target)
            bias.meta["val"] = mean
            layer.args = (*layer.args[:2], bias, *layer.args[3:])
        else:
            _set_constant(module, bias.target, folded[1])
        node.replace_all_uses_with(layer)
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _foldable(layer: Any, constants: list[Any]) -> bool:
    name = operator(layer)
    if name not in WITH_WEIGHTS or (name == "linear.default" and layer.meta["val"].ndim != 2):
        return False
    held = [*constants, *layer.args[1:3]]
    shared = len(layer.users) > 1 or any(one is not None and len(one.users) > 1 for one in layer.args[1:3])
    return not shared and all(one is None or one.op == "get_attr" for one in held) and None not in constants[2:]


def _set_constant(module: fx.GraphModule, target: str, value: Any) -> None:
    owner, _, name = target.rpartition(".")
    before = getattr(module.get_submodule(owner), name, None)
    value.requires_grad_(before is None or before.requires_grad)
    setattr(module.get_submodule(owner), name, value)


def bound_masks(module: fx.GraphModule) -> None:
    """Let masks that go into softmax hold a large number, in place: LiteRT's converter fails on infinity near integers.

    e^-10000 is zero in any float. Where a whole row is masked, softmax then gives equal shares, not NaN.
    """
    for node in module.graph.nodes:
        if operator(node) in MASKS and node.args[2] == -math.inf and goes_into_softmax(node):
            node.args = (*node.args[:2], _MASKED)
    module.recompile()


def split_attention(module: fx.GraphModule) -> None:
    """Replace, in place, attention in one operator by its products and its softmax, for which there are kernels.

    Attention that is causal, has a mask of truth values or dropout is left as it is, and so in float.
    """
    import torch
    from torch import fx

    aten = torch.ops.aten

    def call(target: Any, *arguments: Any) -> fx.Node:
        made = module.graph.call_function(target, arguments)
        made.meta["val"] = target(*(one.meta["val"] if isinstance(one, fx.Node) else one for one in arguments))
        return made

    for node in list(module.graph.nodes):
        if operator(node) != "scaled_dot_product_attention.default" or len(node.args) > 4 or node.kwargs:
            continue
        query, key, value, *masks = node.args
        if not all(is_float(mask) for mask in masks):
            continue
        with module.graph.inserting_before(node):
            scores = call(aten.matmul.default, query, call(aten.transpose.int, key, -2, -1))
            scaled = call(aten.mul.Tensor, scores, query.meta["val"].shape[-1] ** -0.5)
            for mask in masks:
                scaled = call(aten.add.Tensor, scaled, mask)
            node.replace_all_uses_with(call(aten.matmul.default, call(aten.softmax.int, scaled, -1), value))
        module.graph.erase_node(node)
    module.recompile()
