"""What the tests of the passes measure of a net."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedeploy.compress import PASSES
from edgedeploy.compress.scores import part
from edgedeploy.task import Task, predict

if TYPE_CHECKING:
    from torch import nn


ZEROS: Any = PASSES["prune-weights"]
"""The plain pruning of weights by magnitude, over all layers; takes `sparsity`."""


def accuracy(model: nn.Module, task: Task) -> float:
    return float(np.mean(task.metric(predict(model, task.selection.inputs), task.selection.targets)))


def few(task: Task, count: int = 200) -> Task:
    """The task with its first training examples alone, where a test wants training and no result of it."""
    return dataclasses.replace(task, train=part(task.train, np.arange(count)))


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    import torch

    mine, its = one.state_dict(), other.state_dict()
    return mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in mine)


def layer(name: str, *args: Any, **settings: Any) -> Callable[[], Any]:
    """What makes a layer of torch's, so that torch is loaded by then alone."""

    def make() -> Any:
        from torch import nn

        return getattr(nn, name)(*args, **settings)

    return make
