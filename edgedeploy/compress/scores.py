"""How good a net is on examples that a pass may judge itself by: never those of the selection or the test split."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedeploy.compress.training import task_loss
from edgedeploy.task import Split, Task

if TYPE_CHECKING:
    from torch import nn

_BATCH = 256


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """The mean of the task's loss, infinite where it is not finite, and its metric, minus infinity likewise.

    `each` holds the metric of every example, shape (n,), or is None where it is one number for them all.
    """

    loss: float
    metric: float
    each: np.ndarray | None


def score(model: nn.Module, task: Task, split: Split) -> Score:
    """Run the net, in eval mode, over the split. Raises PlanError where the task's loss or metric does."""
    import torch

    measure = task_loss(task)
    total = 0.0
    chunks: list[tuple[np.ndarray, ...]] = []
    model.eval()
    with torch.no_grad():
        for start in range(0, len(split), _BATCH):
            inputs = (torch.from_numpy(array[start : start + _BATCH]) for array in split.inputs)
            targets = torch.from_numpy(split.targets[start : start + _BATCH])
            output: Any = model(*inputs)
            total += float(measure(output, targets)) * len(targets)
            outputs = output if isinstance(output, (tuple, list)) else (output,)
            chunks.append(tuple(one.numpy() for one in outputs))
    joined = tuple(np.concatenate(parts) for parts in zip(*chunks, strict=True))
    if not (math.isfinite(total) and all(np.isfinite(one).all() for one in joined)):
        return Score(math.inf, -math.inf, None)
    judged = task.metric(joined, split.targets)
    each = np.asarray(judged, dtype=np.float64) if isinstance(judged, np.ndarray) and judged.ndim else None
    return Score(total / len(split), float(np.mean(judged)), each)


def drop_with_error(before: Score, after: Score) -> tuple[float, float]:
    """What was lost of the metric, and its standard error over the pairs of examples, s / sqrt(n).

    The error is 0 where the metric has no score for each example.
    """
    drop = before.metric - after.metric
    if before.each is None or after.each is None or len(before.each) < 2:
        return drop, 0.0
    return drop, float(np.std(before.each - after.each, ddof=1)) / math.sqrt(len(before.each))


def folds(targets: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """The places of the examples, ascending, in `count` parts of equal size but for one, drawn at random.

    Where the targets are classes (integers, one for each example), each class is spread evenly over the parts.
    Raises ValueError where there are fewer examples than parts.
    """
    if not 1 < count <= len(targets):
        raise ValueError(f"{len(targets)} examples cannot be parted into {count}")
    random = np.random.default_rng(seed)
    order = random.permutation(len(targets))
    if targets.ndim == 1 and targets.dtype.kind in "iub":
        # Dealt out one after another, class after class: no part gets two more of a class than any other.
        order = order[np.argsort(targets[order], kind="stable")]
    return [np.sort(order[start::count]) for start in range(count)]


def part(split: Split, places: np.ndarray) -> Split:
    """The examples at these places."""
    return Split(tuple(array[places] for array in split.inputs), split.targets[places])


def without(split: Split, places: np.ndarray) -> Split:
    """All examples but those at these places."""
    rest = np.setdiff1d(np.arange(len(split)), places)
    return part(split, rest)
