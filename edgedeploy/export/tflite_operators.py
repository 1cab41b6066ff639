"""What the operators of a TFLite file really compute in, read back from the file and not from what was asked."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from typing import Any

from edgedeploy.export.flatbuffer import is_constant, operator_name
from edgedeploy.export.tflite_names import WEIGHT_INPUTS, weight_index
from edgedeploy.export.tflite_quantise import ATTENTION, CONVOLUTIONS, NORMS, PARTS_OF_NORMS
from edgedeploy.records import OperatorUse, Precision

_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
# They copy rows: integers that they read come out as floats, with no arithmetic between.
_TABLES = ("EMBEDDING_LOOKUP", "GATHER")

_ON_REQUEST = "its layer was to stay in float"
_OF_NORMS = "the variances of a norm span too many decades for it"
_OF_ATTENTION = "no delegate takes it in integers, and it breaks up those that do"
_OF_MASKS = "it leads to softmax or meets a mask, whose minus infinity no range holds"
_COPIES = "it copies rows of its table and computes nothing"
_SLOW = "five times as slow with ranges taken at each inference"
_NO_FORM = "the quantiser has no such form of it"


def operator_uses(model: Any, precision: Precision, kept: str | None, masked: str | None) -> tuple[OperatorUse, ...]:
    """One record for each kind of operator, in the order of the file, which must still have its names.

    `kept` is the pattern of what was left in float on request, `masked` of what was for masks.
    """
    counted: Counter[tuple[str, str, str | None, str]] = Counter()
    for graph in model.subgraphs:
        made_by = {int(index): operator for operator in graph.operators for index in operator.outputs}
        for operator in graph.operators:
            name = operator_name(model, operator)
            if name == "DEQUANTIZE" and is_constant(model, graph, int(operator.inputs[0])):
                continue  # of weights, once when the file is loaded
            weights, direct = _weights(model, graph, operator, made_by)
            arithmetic = _type(graph.tensors[operator.outputs[0]])
            if arithmetic == "bool":
                arithmetic = _type(graph.tensors[operator.inputs[0]])
            hybrid = arithmetic == "fp32" and direct and weights not in (None, "fp32") and name not in _TABLES
            why = ""
            if arithmetic == "fp32" and not hybrid and name not in _CONVERSIONS:
                scope = graph.tensors[operator.outputs[0]].name.decode()
                why = _why_float(name, scope, weights, precision, kept, masked)
            counted[name, "int8" if hybrid else arithmetic, weights, why] += 1
    return tuple(
        OperatorUse(name, count, arithmetic, weights, why)
        for (name, arithmetic, weights, why), count in counted.items()
    )


def notes(uses: tuple[OperatorUse, ...], precision: Precision) -> tuple[str, ...]:
    """In one line, what of a static integer file still works in float."""
    computing = [use for use in uses if use.operator not in _CONVERSIONS]
    floats = [use for use in computing if use.arithmetic == "fp32"]
    if not precision.calibrated or not floats:
        return ()
    kept, total = (sum(use.count for use in group) for group in (floats, computing))
    return (f"{kept} of {total} operators kept in float: {', '.join(sorted({use.operator for use in floats}))}",)


def _why_float(
    name: str, scope: str, weights: str | None, precision: Precision, kept: str | None, masked: str | None
) -> str:
    """What kept an operator from the integers that its precision asks for."""
    if precision in (Precision.FP32, Precision.FP16):
        return ""
    if kept is not None and re.search(kept, scope):
        return _ON_REQUEST if precision.calibrated or weights == "fp32" else ""
    if precision.calibrated:
        if name in PARTS_OF_NORMS and re.search(NORMS, scope):
            return _OF_NORMS
        if name in _TABLES:
            return _COPIES
        if name in ATTENTION:
            return _OF_ATTENTION
        return _OF_MASKS if masked is not None and re.search(masked, scope) else _NO_FORM
    if weights == "fp32" or (precision is Precision.W4 and weights == "int8"):
        return _NO_FORM
    return _SLOW if precision is Precision.INT8_DYNAMIC and name in CONVOLUTIONS else ""


def _weights(model: Any, graph: Any, operator: Any, made_by: dict[int, Any]) -> tuple[str | None, bool]:
    """What an operator's weights are stored in, and whether it takes them as they are."""
    index = weight_index(model, graph, operator)
    if index is not None:
        return _type(graph.tensors[index]), True
    for position in WEIGHT_INPUTS.get(operator_name(model, operator), ()):
        maker = made_by.get(int(operator.inputs[position]))
        if maker is not None and operator_name(model, maker) == "DEQUANTIZE":
            stored = int(maker.inputs[0])
            if is_constant(model, graph, stored):
                return _type(graph.tensors[stored]), False
    return None, False


def _type(tensor: Any) -> str:
    return _types()[tensor.type]


@cache
def _types() -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.TensorType).items() if not name.startswith("_")}
    return {value: re.sub("^FLOAT(?=16|32|64)", "fp", name).lower() for value, name in names.items()}
