"""A small project in a folder: a net of one hidden layer on scikit-learn's digits, without trained weights."""

from __future__ import annotations

import sys
from pathlib import Path

TASK = """
import numpy as np
from sklearn.datasets import load_digits
from torch import nn

METRIC = "accuracy"
LABELS = tuple("0123456789")


def model():
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def example():
    return np.zeros((1, 64), np.float32)


def data():
    digits = load_digits()
    inputs, targets = (digits.data / 16).astype(np.float32), digits.target.astype(np.int64)
    bounds = {"train": (0, 400), "calibration": (400, 450), "selection": (450, 550), "test": (550, 650)}
    return {name: (inputs[a:b], targets[a:b]) for name, (a, b) in bounds.items()}


def metric(outputs, targets):
    return outputs[0].argmax(axis=1) == targets
"""

PLAN = """
[task]
file = "task.py"

[goal]
minimise = "latency"

[[recipe]]
name = "dense"
formats = ["onnx"]
precisions = ["fp32", "int8"]
int8_forms = ["u8s8"]
"""


def write_project(folder: Path, *, task: str = TASK, plan: str = PLAN, fleet: str | None = None) -> Path:
    """Write the project; its board is this machine, with its root inside the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.py").write_text(task)
    (folder / "edgedeploy.toml").write_text(plan)
    (folder / "fleet.toml").write_text(fleet if fleet is not None else local_fleet(folder))
    return folder


def local_fleet(folder: Path) -> str:
    return (
        '[[device]]\nname = "here"\nprofile = "x86-64"\naddress = "local:"\n'
        f'root = "{folder / "board"}"\npython = "{sys.executable}"\n'
    )
