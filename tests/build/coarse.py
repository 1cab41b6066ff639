"""An exporter that rounds the weights of a real ONNX file and leaves it at that: quick, and as real as the file."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedeploy.export import onnx as real
from edgedeploy.export.shared import Written
from edgedeploy.records import OperatorUse, Precision, Target
from edgedeploy.task import Task

if TYPE_CHECKING:
    from torch import nn

tools = real.tools
describe = real.describe
named = real.named
strip = real.strip
constant_bytes = real.constant_bytes


def convert(model: nn.Module, task: Task, path: Path, batch: int | None = None) -> None:
    real.convert(model, task, path, batch)


def layers(source: Path) -> tuple[str, ...]:
    return tuple(_weights(source))


def quantise(source: Path, target: Target, task: Task, path: Path, keep_float: Collection[str]) -> Written:
    import onnx

    if target.precision is Precision.FP32:
        return real.quantise(source, target, task, path, keep_float)
    rounded = source.with_name(f"{path.parent.name}.onnx")
    proto, weights = onnx.load(source), _weights(source)
    assert set(keep_float) <= set(weights)
    for tensor in proto.graph.initializer:
        if any(tensor.name == weights[name] for name in weights.keys() - set(keep_float)):
            exact = onnx.numpy_helper.to_array(tensor)
            scale = np.abs(exact).max() / 127
            coarse = (np.rint(exact / scale) * scale).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(coarse, tensor.name))
    onnx.save(proto, rounded)
    written = real.quantise(rounded, Target(target.format, Precision.FP32), task, path, ())
    uses = (OperatorUse("Gemm", len(weights) - len(keep_float), "fp32", "int8"),)
    return Written(written.notes, uses)


def _weights(source: Path) -> dict[str, str]:
    """Layer to weight."""
    import onnx

    tensors: Any = onnx.load(source).graph.initializer
    return {tensor.name.removesuffix(".weight"): tensor.name for tensor in tensors if len(tensor.dims) == 2}
