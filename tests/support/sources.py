"""Nets as others hand them over: programs of torch.export, and ONNX files put together node by node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

TASK = """
import numpy as np

METRIC = "accuracy"


def example():
    return np.ones((1, 4), dtype=np.float32)


def data():
    random = np.random.default_rng(0)
    splits = {}
    for name, count in {"train": 60, "calibration": 200, "selection": 20, "test": 30}.items():
        inputs = random.normal(size=(count, 4)).astype(np.float32)
        splits[name] = (inputs, inputs[:, :3].argmax(axis=1))
    return splits


def metric(outputs, targets):
    return outputs[0].argmax(axis=1) == targets
"""


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)).eval()


def write_task(folder: Path, text: str = TASK) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.py").write_text(text)
    return folder / "task.py"


def save_program(path: Path, model: nn.Module | None = None, *, batch: int | None = None) -> Path:
    """A .pt2 with a free batch axis, or with a frozen one."""
    shapes = None if batch else ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(model or net(), (torch.ones(batch or 2, 4),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


def linear_onnx(
    *,
    opset: int = 18,
    batch: int | str = "n",
    kind: int = TensorProto.FLOAT,
    nodes: Sequence[Any] = (),
    weights: Sequence[Any] = (),
    ir_version: int = 8,
) -> Any:
    """x @ w + b through a ReLU, with inputs named as a stranger would; `nodes` come after."""
    random = np.random.default_rng(0)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    initializers = [
        numpy_helper.from_array(random.normal(size=(4, 3)).astype(dtype), "w"),
        numpy_helper.from_array((2 + random.normal(size=3)).astype(dtype), "b"),
        *weights,
    ]
    chain = [
        helper.make_node("MatMul", ["pixels", "w"], ["input"]),  # a name that is ours, for another tensor
        helper.make_node("Add", ["input", "b"], ["sum"]),
        *(nodes or [helper.make_node("Relu", ["sum"], ["scores"])]),
    ]
    graph = helper.make_graph(
        chain,
        "stranger",
        [helper.make_tensor_value_info("pixels", kind, [batch, 4])],
        [helper.make_tensor_value_info("scores", kind, [batch, 3])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def save_onnx(path: Path, model: Any = None) -> Path:
    onnx.save(linear_onnx() if model is None else model, path)
    return path
