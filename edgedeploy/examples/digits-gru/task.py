"""Handwritten digits, 8x8 pixels, read row by row by a recurrent net.

edgedeploy reads this file. It asks for four functions: model(), example(), data() and metric().
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

METRIC = "accuracy"
LABELS = tuple("0123456789")
PREPROCESSING = "grey values 0 to 16, divided by 16; one row of pixels a step"


class RowReader(nn.Module):
    """Reads the eight rows from top to bottom and names the digit from what it remembers then."""

    def __init__(self, hidden: int = 96) -> None:
        super().__init__()
        self.gru = nn.GRU(input_size=8, hidden_size=hidden, batch_first=True)
        self.head = nn.Linear(hidden, 10)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        states, _ = self.gru(rows)
        return self.head(states[:, -1])


def model() -> nn.Module:
    """The net, without weights."""
    return RowReader()


def example() -> np.ndarray:
    """One input, batch axis first: it tells the shape and the type."""
    return data()["calibration"][0][:1]


def data() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Four parts that share no image.

    train trains, calibration sets the ranges for int8, selection decides between variants, and test is only
    reported.
    """
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)
    targets = digits.target.astype(np.int64)
    parts = {}
    for name, count in {"test": 397, "selection": 300, "calibration": 100}.items():
        images, part_images, targets, part_targets = train_test_split(
            images, targets, test_size=count, stratify=targets, random_state=0
        )
        parts[name] = (part_images, part_targets)
    return {"train": (images, targets), **parts}


def metric(outputs: tuple[np.ndarray, ...], targets: np.ndarray) -> np.ndarray:
    """1 for each digit that is read right, else 0: scores for each example allow paired comparisons."""
    return outputs[0].argmax(axis=1) == targets
