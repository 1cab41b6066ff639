"""What a quantised file's operators really compute in is not what was asked for, but what the runtime makes of them."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from edgedeploy.export.onnx_graph import layer_of, weights
from edgedeploy.export.onnx_inner import told
from edgedeploy.onnx_session import open_session
from edgedeploy.records import OperatorUse, Precision

# They move values about, or are the price of the rest.
_BOOKKEEPING = frozenset(
    (
        "Cast", "Concat", "Constant", "ConstantOfShape", "DequantizeLinear", "DynamicQuantizeLinear", "Expand",
        "Flatten", "Gather", "Identity", "Pad", "QuantizeLinear", "Range", "ReorderInput", "ReorderOutput",
        "Reshape", "Shape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Transpose", "Unsqueeze",
    )
)  # fmt: skip
_INTEGER = {
    "DynamicQuantizeLSTM": "LSTM",
    "DynamicQuantizeMatMul": "MatMul",
    "MatMulInteger": "MatMul",
    "MatMulIntegerToFloat": "MatMul",
    "NhwcMaxPool": "MaxPool",
    "QAttention": "Attention",
    "QGemm": "Gemm",
}
_FUSED = {
    "BiasGelu": "Gelu",
    "FastGelu": "Gelu",
    "FusedConv": "Conv",
    "FusedGemm": "Gemm",
    "FusedMatMul": "MatMul",
    "QuickGelu": "Gelu",
    "SkipLayerNormalization": "LayerNormalization",
    "SimplifiedLayerNormalization": "RMSNormalization",
    "SkipSimplifiedLayerNormalization": "RMSNormalization",
}
_RECURRENT = ("GRU", "LSTM", "RNN")
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Gather", *_RECURRENT)
_KEPT = "kept in float for accuracy"
_NO_HALVES = "no kernel for halves on this machine"


def read_back(
    source: Any, quantised: Any, precision: Precision, keep_float: Collection[str]
) -> tuple[OperatorUse, ...]:
    """What became of the operators of the float graph `source`. Raises ExportError where the runtime refuses it."""
    stored = _stored(source, quantised)
    if precision is Precision.FP16:
        return tuple(
            OperatorUse(name, count, kind, stored.get(name), "" if kind == "fp16" else _NO_HALVES)
            for (name, kind), count in sorted(_float_kinds(_optimised(quantised)).items())
        )
    if precision is Precision.FP32:
        counted = Counter(
            node.op_type for node in source.graph.node if node.op_type not in _BOOKKEEPING or _embeds(source, node)
        )
        return tuple(
            OperatorUse(name, count, precision.value, stored.get(name)) for name, count in sorted(counted.items())
        )
    integer, floats = _counts(_optimised(quantised))
    floats += Counter(node.op_type for node in source.graph.node if _embeds(source, node))
    kept = Counter({weight.node.name: weight.node.op_type for weight in weights(source.graph)
                    if weight.layer in keep_float}.values())  # fmt: skip
    weightless = Counter(
        node.op_type
        for node in source.graph.node
        if node.op_type == "MatMul" and node.name not in {weight.node.name for weight in weights(source.graph)}
    )
    asked = precision not in (Precision.W8, Precision.W4)
    uses = [OperatorUse(name, count, "int8", stored.get(name)) for name, count in integer.items()]
    for name, count in floats.items():
        parts = [(min(count, kept[name]), _KEPT, "fp32"), (weightless[name], "no weights", None)]
        rest = count - sum(part for part, _, _ in parts)
        parts.append((rest, _why(name, precision), stored.get(name)))
        uses += [
            OperatorUse(name, part, "fp32", held, why if asked or why == _KEPT else "")
            for part, why, held in parts
            if part > 0
        ]
    return tuple(sorted(uses, key=lambda use: (use.operator, use.arithmetic, use.why)))


def notes(uses: Collection[OperatorUse], precision: Precision) -> tuple[str, ...]:
    """What a user must know who asked for that precision."""
    if precision in (Precision.W8, Precision.W4):
        return (f"weights are unpacked when the file is loaded: latency and memory are those of {Precision.FP32}",)
    if precision is Precision.INT16X8:
        return ("onnxruntime computes 16-bit activations in float on a CPU; this file is for accelerators",)
    if precision is Precision.FP16:
        widened = sorted({use.operator for use in uses if use.weights == "fp16" and use.arithmetic == "fp32"})
        return (f"computed in float32 on a machine like this one: {', '.join(widened)}",) if widened else ()
    if not precision.value.startswith("int8"):
        return ()
    heavy = sorted({use.operator for use in uses if use.arithmetic == "fp32" and use.weights == "int8" and use.why})
    return (f"computed in float, only stored as int8: {', '.join(heavy)}",) if heavy else ()


def _why(name: str, precision: Precision) -> str:
    if precision is Precision.INT16X8:
        return "onnxruntime computes 16-bit activations in float on a CPU"
    if name in ("GRU", "RNN") or (name == "LSTM" and precision is Precision.INT8):
        return f"onnxruntime has no integer {name}" + (" of fixed ranges" if name == "LSTM" else "")
    if name in ("Conv", "LSTM") and precision is Precision.INT8_DYNAMIC:
        return "slower in integers than in float" + ("" if name == "Conv" else " at this width")
    if name == "Gather":
        return "a table to look up in"
    if "Norm" in name or name in ("Softmax", "LogSoftmax"):
        return "loses most in eight bits"
    if name in _WEIGHTED:
        return "no integer kernel for it on this machine"
    return "among float operators, where integers cost more than they save"


def _optimised(proto: Any) -> Any:
    import onnx

    with tempfile.TemporaryDirectory() as folder, told("load the exported file"):
        path = Path(folder) / "optimised.onnx"
        open_session(proto.SerializeToString(), path)
        return onnx.load(path)


def _counts(optimised: Any) -> tuple[Counter[str], Counter[str]]:
    integer: Counter[str] = Counter()
    floats: Counter[str] = Counter()
    for node in optimised.graph.node:
        name = node.op_type
        if name.startswith("QLinear") or name in _INTEGER:
            integer[_INTEGER.get(name, name.removeprefix("QLinear"))] += 1
        elif name not in _BOOKKEEPING:
            floats[_FUSED.get(name, name)] += 1
    return integer, floats


def _float_kinds(optimised: Any) -> Counter[tuple[str, str]]:
    """Operators by type and by the floats they compute on, which onnxruntime's own Casts around them tell."""
    from onnx import TensorProto, helper

    names = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}
    known = {tensor.name: tensor.data_type for tensor in optimised.graph.initializer}
    known |= {value.name: value.type.tensor_type.elem_type for value in optimised.graph.input}
    counted: Counter[tuple[str, str]] = Counter()
    for node in optimised.graph.node:
        kind = next((known[name] for name in node.input if known.get(name) in names), None)
        if node.op_type == "Cast":
            kind = next(helper.get_attribute_value(field) for field in node.attribute if field.name == "to")
        elif kind is not None and node.op_type not in _BOOKKEEPING:
            counted[_FUSED.get(node.op_type, node.op_type), names[kind]] += 1
        if kind is not None:
            known |= dict.fromkeys(node.output, kind)
    return counted


def _embeds(source: Any, node: Any) -> bool:
    return node.op_type == "Gather" and any(weight.node.name == node.name for weight in weights(source.graph))


def _stored(source: Any, quantised: Any) -> dict[str, str]:
    """By type of operator, the narrowest type that one of its weights is stored in."""
    from onnx import TensorProto

    names = {
        TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.INT8: "int8", TensorProto.UINT8: "int8"
    }  # fmt: skip
    kinds = {tensor.name: tensor.data_type for tensor in quantised.graph.initializer}
    producers = {name: node for node in quantised.graph.node for name in node.output}
    order = ("int4", "int8", "fp16", "fp32")
    found: dict[str, str] = {}
    layers = {layer_of(weight.node): weight for weight in weights(source.graph)}
    for node in quantised.graph.node:
        if layer_of(node) not in layers:
            continue
        plain = _INTEGER.get(node.op_type, node.op_type)
        places = {"Gather": (0,), "GRU": (1, 2), "LSTM": (1, 2), "RNN": (1, 2), "MatMul": (0, 1)}.get(plain, (1,))
        for place in places if plain in _WEIGHTED else ():
            kind = _origin(node.input[place], producers, kinds, names)
            if kind is not None and order.index(kind) < order.index(found.get(plain, "fp32")):
                found[plain] = kind
            elif kind is not None:
                found.setdefault(plain, kind)
    return found


def _origin(name: str, producers: dict[str, Any], kinds: dict[str, int], names: dict[int, str]) -> str | None:
    """The type of the constant that a tensor is made of, None where an activation goes into it."""
    if name in kinds:
        return names.get(kinds[name])
    node = producers.get(name)
    if node is None:
        return None
    if node.op_type == "Mod":
        return "int4"
    if node.op_type not in ("Cast", "Concat", "DequantizeLinear", "Mul", "Reshape", "Sub"):
        return None
    return _origin(node.input[0], producers, kinds, names)
