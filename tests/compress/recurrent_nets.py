"""Small nets around recurrent layers, put together from a forward pass and the layers that it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgedeploy.task import Task

FEATURES, HIDDEN, STEPS, CLASSES = 5, 8, 6, 3


def task_of(forward: Callable[[Any, torch.Tensor], Any], layers: Callable[[], Mapping[str, nn.Module]]) -> Task:
    """A task around a net with these layers as attributes."""
    from torch import nn

    from tests.export.nets import make_task

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, layer in layers().items():
                setattr(self, name, layer)

        def forward(self, rows: torch.Tensor) -> Any:
            return forward(self, rows)

    random = np.random.default_rng(0)
    inputs = random.normal(size=(96, STEPS, FEATURES)).astype(np.float32)
    return make_task(Net, (inputs,), random.integers(0, CLASSES, 96))


def recurrent(kind: str = "GRU", features: int = FEATURES, **settings: Any) -> Any:
    from torch import nn

    return getattr(nn, kind)(features, HIDDEN, batch_first=True, **settings)


def linear(features: int = HIDDEN) -> Any:
    from torch import nn

    return nn.Linear(features, CLASSES)


def last_step(net: Any, rows: torch.Tensor) -> Any:
    return net.head(net.layer(rows)[0][:, -1])


def last_step_task(kind: str = "GRU", **settings: Any) -> Task:
    return task_of(last_step, lambda: {"layer": recurrent(kind, **settings), "head": linear()})
