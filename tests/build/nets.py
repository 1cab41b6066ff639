"""Nets of known accuracy, with layers that eight bits ruin."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from edgedeploy.task import Task
from tests.export.nets import make_task

LAYERS = ("first", "second", "head")


class Copies(nn.Module):
    """Hands on its eight inputs twice and gives four of them; the eighth is always 0.

    In a layer named `hostile` that 0 has a weight of 1000: no output changes, and no scale of eight bits holds both
    that and the ones beside it.
    """

    def __init__(self, *hostile: str) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        with torch.no_grad():
            for gain, (name, layer) in enumerate(self.named_children(), start=1):
                assert isinstance(layer, nn.Linear)
                layer.weight.copy_(gain * torch.eye(*layer.weight.shape))  # equal weights would be shared in a file
                layer.bias.zero_()
                if name in hostile:
                    layer.weight[:7, 7] = 1000.0
        self.relu = nn.ReLU()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.relu(self.second(self.relu(self.first(values)))))
        return logits


def copies(*hostile: str, selection: int = 400) -> tuple[nn.Module, Task]:
    """The net, and a task that it does without a mistake and by a wide margin."""
    net: Callable[[], nn.Module] = lambda: Copies(*hostile)  # noqa: E731
    generator = np.random.default_rng(0)
    values = generator.uniform(0.0, 0.3, size=(4 * selection, 8)).astype(np.float32)
    classes = generator.integers(0, 4, size=len(values))
    values[np.arange(len(values)), classes] += 1.0
    values[:, 7] = 0.0
    return net().eval(), make_task(net, (values,), classes)
