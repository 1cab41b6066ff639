"""Handwritten digits, 8x8 pixels, read by a small Transformer encoder.

edgedeploy reads this file. It asks for four functions: model(), example(), data() and metric().
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

METRIC = "accuracy"
LABELS = tuple("0123456789")
PREPROCESSING = "grey values 0 to 16, divided by 16; one row of pixels a token"


class Attention(nn.Module):
    """Self-attention in its plain form.

    Sizes come from the tensors, never from constants: pruning may make the layers narrower.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        mixed = scores.softmax(dim=-1) @ value
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention between the rows, then a small net for each row; both are added to what was there."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))


class RowTransformer(nn.Module):
    """Takes each row of pixels as one token and names the digit from the mean over the rows."""

    def __init__(self, width: int = 64, heads: int = 4, blocks: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(torch.randn(1, 8, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.embed(rows) + self.position)
        return self.head(self.norm(x).mean(dim=1))


def model() -> nn.Module:
    """The net, without weights."""
    return RowTransformer()


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
