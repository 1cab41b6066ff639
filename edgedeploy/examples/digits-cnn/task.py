"""Handwritten digits, 8x8 pixels, read by a small convolutional net with inverted residuals.

edgedeploy reads this file. It asks for four functions: model(), example(), data() and metric().
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

METRIC = "accuracy"
LABELS = tuple("0123456789")
PREPROCESSING = "grey values 0 to 16, divided by 16"
LAYOUT = "NCHW"


class InvertedResidual(nn.Module):
    """Widen by 1x1, filter each channel by itself, narrow by 1x1; add the input where the shapes allow."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, widen: int = 4) -> None:
        super().__init__()
        hidden = channels_in * widen
        self.layers = nn.Sequential(
            nn.Conv2d(channels_in, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.adds_input = stride == 1 and channels_in == channels_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x)
        return x + y if self.adds_input else y


def model() -> nn.Module:
    """The net, without weights."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        InvertedResidual(16, 24),
        InvertedResidual(24, 24),
        InvertedResidual(24, 40, stride=2),
        InvertedResidual(40, 40),
        InvertedResidual(40, 64, stride=2),
        InvertedResidual(64, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def example() -> np.ndarray:
    """One input, batch axis first: it tells the shape and the type."""
    return data()["calibration"][0][:1]


def data() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Four parts that share no image.

    train trains, calibration sets the ranges for int8, selection decides between variants, and test is only
    reported.
    """
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
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
