"""fp16 for ONNX: every float becomes a half, in an order of operators that onnxruntime bears."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from edgedeploy.export.onnx_graph import Constants, attribute, layer_of
from edgedeploy.quiet import quiet


def halve(proto: Any, keep_float: Collection[str]) -> Any:
    """Return the graph in fp16, but for its inputs, its outputs and the layers `keep_float`; `proto` is used up."""
    multiply_before_transposing(proto.graph)
    with quiet():
        from onnxruntime.transformers.float16 import convert_float_to_float16
        from onnxruntime.transformers.onnx_model import OnnxModel

        # onnxconverter-common has the same function, whose casts break on Transformer encoders.
        kept = [node.name for node in proto.graph.node if layer_of(node) in keep_float]
        halved = OnnxModel(convert_float_to_float16(proto, keep_io_types=True, node_block_list=kept))
        halved.topological_sort(is_deterministic=True)  # it puts the casts at the end
        return halved.model


def multiply_before_transposing(graph: Any) -> None:
    """Let a product with weights come, in place, before a transposition that moves the first axis and not the last.

    onnxruntime 1.31 puts a cast of halves before such a Transpose, fuses that into the MatMul, and crashes: every
    encoder that has its batch first and its norms before attention is so. A product over the last axis is the same.
    """
    from onnx import helper

    constants = Constants(graph)
    makers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    nodes: list[Any] = []
    gone: list[str] = []
    for node in graph.node:
        nodes.append(node)
        turn = makers.get(node.input[0]) if node.op_type == "MatMul" else None
        if turn is None or turn.op_type != "Transpose" or node.input[1] not in constants:
            continue
        axes = list(attribute(turn, "perm", []))
        if constants.rank(node.input[1]) != 2 or not axes or axes[0] == 0 or axes[-1] != len(axes) - 1:
            continue
        turned, product = node.output[0], f"{node.output[0]}_before_{turn.output[0]}"
        readers[turn.output[0]] -= 1
        if readers[turn.output[0]] == 0:
            gone.append(turn.name)
        node.input[0], node.output[0] = turn.input[0], product
        after = helper.make_node("Transpose", [product], [turned], f"{node.name}/transposed", perm=axes)
        makers[turned] = after
        nodes.append(after)
    kept = [type(node).FromString(node.SerializeToString()) for node in nodes if node.name not in gone]
    del graph.node[:]
    graph.node.extend(kept)
