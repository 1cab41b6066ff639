"""What the tests of the passes measure of a net."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedeploy.task import Task, predict

if TYPE_CHECKING:
    from torch import nn


def accuracy(model: nn.Module, task: Task) -> float:
    return float(np.mean(task.metric(predict(model, task.selection.inputs), task.selection.targets)))


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    import torch

    mine, its = one.state_dict(), other.state_dict()
    return mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in mine)
