"""A mask of attention is minus infinity, or as good as that, which no range holds: what meets it stays in float."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from edgedeploy.export.calibration import Range
from edgedeploy.export.flatbuffer import FLOAT32, is_constant, operator_name

# As large a number stands for infinity: litert-torch writes the lowest float for what torch masks with truth values.
INFINITE = 3e38
# What stands for infinity where integers have to: e to the power of its negative is zero in any float.
BOUND = 1e4

_ON_THE_WAY = frozenset(
    (
        "ADD",
        "BROADCAST_TO",
        "CONCATENATION",
        "DIV",
        "EXPAND_DIMS",
        "MAXIMUM",
        "MINIMUM",
        "MUL",
        "NEG",
        "REDUCE_MAX",
        "RESHAPE",
        "SELECT",
        "SELECT_V2",
        "SLICE",
        "SQUEEZE",
        "STRIDED_SLICE",
        "SUB",
        "TILE",
        "TRANSPOSE",
    )
)


def meeting_masks(model: Any, ranges: Mapping[str, Range]) -> str | None:
    """A pattern that fits what these operators of a float file give, None where there is none.

    They read or give an infinity, by the constants of the file and the `ranges` of its activations; or all that is
    made of what they give goes into softmax, where a mask may be any large number.
    """
    graph = model.subgraphs[0]
    infinite = {
        index
        for index, tensor in enumerate(graph.tensors)
        if np.isinf(ranges.get(tensor.name.decode(), 0.0)).any() or _holds_infinity(model, graph, index)
    }
    meeting = [operator for operator in graph.operators if infinite & {*operator.inputs, *operator.outputs}]
    found = [*meeting, *_leading_to_softmax(model, graph)]
    names = sorted({graph.tensors[operator.outputs[0]].name.decode() for operator in found})
    return f"^(?:{'|'.join(map(re.escape, names))})(?:;|$)" if names else None


def _holds_infinity(model: Any, graph: Any, index: int) -> bool:
    tensor = graph.tensors[index]
    if tensor.type != FLOAT32 or not is_constant(model, graph, index):
        return False
    values = np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.float32)
    return bool((np.abs(values) > INFINITE).any())


def _leading_to_softmax(model: Any, graph: Any) -> Iterator[Any]:
    makers = {int(index): operator for operator in graph.operators for index in operator.outputs}
    # Whether all who read a tensor lead there; an output of the file is read by others.
    leading = dict.fromkeys(map(int, graph.outputs), False)
    for operator in reversed(graph.operators):
        name = operator_name(model, operator)
        last = name == "SOFTMAX" or (name == "EXP" and _is_part_of_softmax(model, operator, makers))
        leads = last or (name in _ON_THE_WAY and all(leading.get(int(index), False) for index in operator.outputs))
        for index in map(int, operator.inputs):
            leading[index] = leads and leading.get(index, True)
        if leads and name != "SOFTMAX":
            yield operator


def _is_part_of_softmax(model: Any, exponential: Any, makers: Mapping[int, Any]) -> bool:
    """Over any axis but the last, softmax comes in parts: the maximum is taken away, and EXP of what is left."""
    difference = makers.get(int(exponential.inputs[0]))
    if difference is None or operator_name(model, difference) != "SUB":
        return False
    maker = makers.get(int(difference.inputs[1]))
    while maker is not None and operator_name(model, maker) in ("MAXIMUM", "RESHAPE"):
        maker = makers.get(int(maker.inputs[0]))
    return maker is not None and operator_name(model, maker) == "REDUCE_MAX"
