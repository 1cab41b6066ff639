"""Small nets of three families on handwritten digits, trained just enough for their accuracy to mean something."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from edgedeploy.task import Split, Task

if TYPE_CHECKING:
    from edgedeploy.task import Arrays


class Cnn(nn.Module):
    """A depthwise-separable net with batch normalisation, as mobile nets have it."""

    def __init__(self) -> None:
        super().__init__()

        def block(before: int, after: int, stride: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False),
                nn.BatchNorm2d(before),
                nn.ReLU6(),
                nn.Conv2d(before, after, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU6(),
            )

        stem = nn.Sequential(nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.features = nn.Sequential(stem, block(16, 32, 2), block(32, 64, 2))
        self.head = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(images[:, None]).mean((2, 3)))
        return logits


class Gru(nn.Module):
    """Reads the rows of the image one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(8, 48, batch_first=True)
        self.head = nn.Linear(48, 10)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        states, _ = self.gru(rows)
        logits: torch.Tensor = self.head(states[:, -1])
        return logits


class Transformer(nn.Module):
    """Attends over the rows of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.position = nn.Parameter(0.1 * torch.randn(1, 8, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.encoder(self.embed(rows) + self.position).mean(1))
        return logits


class Attention(nn.Module):
    """Written by hand, as most are."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        def split(values: torch.Tensor) -> torch.Tensor:
            return values.reshape(*values.shape[:2], self.heads, -1).transpose(1, 2)

        query, key, value = split(self.query(rows)), split(self.key(rows)), split(self.value(rows))
        weights = torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, dim=-1)
        mixed: torch.Tensor = self.out((weights @ value).transpose(1, 2).flatten(2))
        return mixed


class Block(nn.Module):
    """Attention and a small perceptron, each beside a way around it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, 4)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        rows = rows + self.attention(self.norm(rows))
        result: torch.Tensor = rows + self.mlp(rows)
        return result


class Tokens(nn.Module):
    """Looks up each grey value in a table and attends over the rows of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(17, 4)
        self.blocks = nn.ModuleList([Block(32)])
        self.head = nn.Linear(8 * 32, 10)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        rows = self.embed(tokens).flatten(2)
        for block in self.blocks:
            rows = block(rows)
        logits: torch.Tensor = self.head(rows.flatten(1))
        return logits


def accuracy(outputs: Arrays, targets: np.ndarray) -> np.ndarray:
    right: np.ndarray = outputs[0].argmax(axis=1) == targets
    return right.astype(np.float64)


def make_task(
    model: Callable[[], nn.Module], inputs: Arrays, targets: np.ndarray | None = None, metric: Any = accuracy
) -> Task:
    """A task around given inputs: every fourth example to each split."""
    if targets is None:
        targets = np.zeros(len(inputs[0]), dtype=np.int64)
    parts: dict[str, Any] = {
        name: Split(tuple(array[start::4] for array in inputs), targets[start::4])
        for start, name in enumerate(("train", "calibration", "selection", "test"))
    }
    return Task(
        folder=Path(),
        name="a test",
        digest="0" * 64,
        model=model,
        weights=None,
        example=tuple(array[:1] for array in inputs),
        **parts,
        metric=metric,
        metric_name="accuracy",
        loss=None,
        labels=tuple("0123456789"),
        preprocessing="grey values divided by 16",
        layout=None,
    )


def digits_task(model: Callable[[], nn.Module]) -> Task:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return make_task(model, ((digits.images / 16).astype(np.float32),), digits.target.astype(np.int64))


def tokens_task() -> Task:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return make_task(Tokens, (digits.images.astype(np.int64),), digits.target.astype(np.int64))


def train(task: Task, epochs: int = 12) -> nn.Module:
    """The task's net after a few epochs on its train split, the same at each call, in eval mode."""
    torch.manual_seed(0)
    net = task.model().train()
    inputs, targets = torch.from_numpy(task.train.inputs[0]), torch.from_numpy(task.train.targets)
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(epochs):
        order = torch.randperm(len(targets))
        for start in range(0, len(targets), 32):
            drawn = order[start : start + 32]
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(net(inputs[drawn]), targets[drawn])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return net.eval()
