"""Static int8 for ONNX: unsigned activations, signed weights per channel, ranges from the calibration split."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedeploy.errors import ExportError
from edgedeploy.export.capture import CONVERTER_ERRORS
from edgedeploy.export.shared import calibration_examples, tensor_names
from edgedeploy.quiet import quiet
from edgedeploy.records import Calibration
from edgedeploy.task import Task

if TYPE_CHECKING:
    import numpy as np

# They compute nothing, or lose most in eight bits, and a pair of Q and DQ around each costs more than it saves:
# on a Transformer encoder a fifth of the file, with no change in speed or error.
_KEPT_IN_FLOAT = frozenset(
    ("LayerNormalization", "Softmax", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split")
)


def quantise(proto: Any, task: Task, folder: Path, batch: int = 1) -> tuple[Any, tuple[str, ...]]:
    """Return the quantised graph and notes on what stayed in float; `batch` examples a call. Raises ExportError."""
    import onnx

    _untie(proto.graph)
    source, result = folder / "float.onnx", folder / "int8.onnx"
    source.write_bytes(proto.SerializeToString())
    try:
        with quiet():
            _quantise_static(source, result, task, batch)
    except CONVERTER_ERRORS as error:
        raise ExportError(f"onnxruntime cannot quantise the net: {type(error).__name__}: {error}") from error
    quantised = onnx.load(result)
    return quantised, _notes(quantised.graph)


def _untie(graph: Any) -> None:
    """Give each kind of user of a shared weight its own copy.

    The quantiser keeps one scale per tensor, cut along the axis that the first user asks for: an embedding tied
    to the last layer then comes out as a file that no runtime takes.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) > 1}
    copies: dict[tuple[str, str, int], str] = {}
    first_user: dict[str, tuple[str, str, int]] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name not in weights:
                continue
            user = (name, node.op_type, position)
            if first_user.setdefault(name, user) == user:
                continue
            if user not in copies:
                copies[user] = f"{name}_of_{node.op_type}_{position}"
                copy = graph.initializer.add()
                copy.CopyFrom(weights[name])
                copy.name = copies[user]
            node.input[position] = copies[user]


def _quantise_static(source: Path, result: Path, task: Task, batch: int) -> None:
    from onnxruntime import quantization
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    names = tensor_names("input", len(task.example))

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Hands out the examples of the calibration split, one by one."""

        def __init__(self) -> None:
            self._examples = iter(calibration_examples(task, Calibration(), batch))

        def get_next(self) -> dict[str, np.ndarray] | None:
            example = next(self._examples, None)
            return None if example is None else dict(zip(names, example, strict=True))

    quantization.quantize_static(
        source,
        result,
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=sorted({*QDQRegistry, *QLinearOpsRegistry} - _KEPT_IN_FLOAT),
        per_channel=True,
        # x86 multiplies unsigned by signed; with the default, signed by signed, most of the gain is lost there.
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )


def _notes(graph: Any) -> tuple[str, ...]:
    """Read off the file which weights did not become integers, and who uses them."""
    import onnx

    weights = {tensor.name: tensor.data_type for tensor in graph.initializer if len(tensor.dims) > 1}
    integer = {name for name, kind in weights.items() if kind in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)}
    floats = {name for name, kind in weights.items() if kind == onnx.TensorProto.FLOAT}
    users = Counter(node.op_type for node in graph.node if floats.intersection(node.input))
    if not floats:
        return ()
    kept = ", ".join(sorted(users))
    return (f"{kept} kept in float: {len(integer)} of {len(integer) + len(floats)} weight tensors are int8",)
