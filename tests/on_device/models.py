"""Builds tiny real models with their contracts, so that no test of the agent needs torch."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy.on_device.runtimes import open_model

WEIGHTS = np.random.default_rng(7).normal(size=(8, 3)).astype(np.float32)
EXAMPLES = np.random.default_rng(8).uniform(-1, 1, size=(4, 8)).astype(np.float32)


def tensor(name: str, shape: list[int | None], kind: str = "float32", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "shape": shape,
        "type": kind,
        "scale": None,
        "zero_point": None,
        "real_type": "float32",
    } | more


def contract(
    format: str,  # noqa: A002
    inputs: list[dict[str, Any]],
    outputs: list[dict[str, Any]],
    **more: Any,
) -> dict[str, Any]:
    return {
        "schema": 1,
        "format": format,
        "precision": "fp32",
        "inputs": inputs,
        "outputs": outputs,
        "layout": None,
        "preprocessing": "",
        "labels": [],
    } | more


ONNX = contract("onnx", [tensor("x", [None, 8])], [tensor("y", [None, 3])])
TFLITE = contract("tflite", [tensor("x", [1, 8])], [tensor("y", [1, 3])])
TFLITE_INT8 = contract(
    "tflite",
    [tensor("x", [1, 8], "int8", scale=1 / 127, zero_point=0)],
    [tensor("y", [1, 3], "int8", scale=8 / 127, zero_point=0)],
    precision="int8",
)
TFLITE_INT16 = contract(
    "tflite",
    [tensor("x", [1, 8], "int16", scale=1 / 32767, zero_point=0)],
    [tensor("y", [1, 3], "int16", scale=8 / 32767, zero_point=0)],
    precision="int16x8",
)


def onnx_matmul() -> bytes:
    """y = x @ WEIGHTS for any batch."""
    from onnx import TensorProto, helper, numpy_helper

    return _onnx(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )


def onnx_division() -> bytes:
    """y = 0 / (x - x) for any batch: NaN, whatever goes in."""
    from onnx import TensorProto, helper

    return _onnx(
        [helper.make_node("Sub", ["x", "x"], ["zero"]), helper.make_node("Div", ["zero", "zero"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [],
    )


def onnx_petabyte() -> bytes:
    """y = x spread over a petabyte: no board has that memory."""
    from onnx import TensorProto, helper, numpy_helper

    return _onnx(
        [helper.make_node("Expand", ["x", "shape"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([1 << 45, 1, 8], np.int64), "shape")],
    )


def _onnx(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: list[Any]) -> bytes:
    from onnx import helper

    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def tflite_dense(int8: bool = False, custom: str | None = None, int16: bool = False) -> bytes:
    """y = x @ WEIGHTS for one example; with `custom`, the operator is one that nobody knows.

    `int16` quantises the weights to 8 bits and x and y to 16.
    """
    int8 = int8 or int16
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT()
    model.version = 3
    code = schema.OperatorCodeT()
    code.builtinCode = schema.BuiltinOperator.CUSTOM if custom else schema.BuiltinOperator.FULLY_CONNECTED
    code.deprecatedBuiltinCode = code.builtinCode
    code.version = 7 if int16 else 4 if int8 else 1
    code.customCode = custom
    model.operatorCodes = [code]
    buffer = schema.BufferT()
    steps = np.rint(WEIGHTS.T / (4 / 127)).astype(np.int8) if int8 else WEIGHTS.T
    buffer.data = np.frombuffer(np.ascontiguousarray(steps).tobytes(), np.uint8)
    model.buffers = [schema.BufferT(), buffer]
    scales = {"x": 1 / 32767, "w": 4 / 127, "y": 8 / 32767} if int16 else {"x": 1 / 127, "w": 4 / 127, "y": 8 / 127}
    tensors = []
    for name, shape, place in (("x", [1, 8], 0), ("w", [3, 8], 1), ("y", [1, 3], 0)):
        item = schema.TensorT()
        item.name, item.shape, item.buffer = name, np.array(shape, np.int32), place
        item.type = schema.TensorType.INT8 if int8 else schema.TensorType.FLOAT32
        if int16 and name != "w":
            item.type = schema.TensorType.INT16
        if int8:
            item.quantization = schema.QuantizationParametersT()
            item.quantization.scale = np.array([scales[name]], np.float32)
            item.quantization.zeroPoint = np.array([0], np.int64)
        tensors.append(item)
    step = schema.OperatorT()
    step.opcodeIndex, step.inputs, step.outputs = 0, np.array([0, 1, -1], np.int32), np.array([2], np.int32)
    if not custom:
        step.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        step.builtinOptions = schema.FullyConnectedOptionsT()
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = tensors, [step]
    graph.inputs, graph.outputs = np.array([0], np.int32), np.array([2], np.int32)
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def probe_of(model: bytes, its_contract: dict[str, Any], folder: Path) -> bytes:
    """The probe as the host makes it: real inputs, and what the file gives for them here."""
    path = folder / "probed"
    path.write_bytes(model)
    return probe(EXAMPLES, open_model(str(path), its_contract).run([EXAMPLES])[0])


def probe(inputs: np.ndarray[Any, Any], outputs: np.ndarray[Any, Any]) -> bytes:
    content = io.BytesIO()
    np.savez(content, input_0=inputs, output_0=outputs)
    return content.getvalue()


def encode(document: Any) -> bytes:
    return json.dumps(document).encode()
