"""Tiny tasks, written to disk as a user would write them."""

from pathlib import Path

TINY_TASK = '''"""A linear net on four numbers."""
import numpy as np
import torch
from torch import nn


def model():
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))


def example():
    return np.ones((1, 4), dtype=np.float32)


def data():
    random = np.random.default_rng(0)
    splits = {}
    for name, count in {"train": 60, "calibration": 10, "selection": 20, "test": 30}.items():
        inputs = random.normal(size=(count, 4)).astype(np.float32)
        splits[name] = (inputs, inputs[:, :3].argmax(axis=1))
    return splits


def metric(outputs, targets):
    return outputs[0].argmax(axis=1) == targets
'''


def write_task(folder: Path, *changes: tuple[str, str], extra: str = "") -> Path:
    """Write the tiny task into a folder with some of its text replaced, and return its file."""
    text = TINY_TASK
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "task.py"
    file.write_text(text + extra)
    return file
