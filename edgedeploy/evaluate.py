"""The task's metric on the exported file itself, with the uncertainty that so many examples leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedeploy import statistics
from edgedeploy.errors import ExportError, PlanError
from edgedeploy.exported_file import run_exported
from edgedeploy.records import Drop, Quality
from edgedeploy.task import Arrays, Split, Task, predict

if TYPE_CHECKING:
    from torch import nn

# What one call of the runtime holds in memory: enough to be quick, little enough for large inputs.
_BATCH = 64


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """How good something is on one split.

    `scores` has shape (n,), one per example, or is None where the metric is one number for them all; `outputs`
    and `targets` are what it was computed from.
    """

    quality: Quality
    scores: np.ndarray | None
    outputs: Arrays
    targets: np.ndarray
    task: Task


def evaluate(path: Path, contract: Mapping[str, Any], task: Task, split_name: str) -> Evaluation:
    """Run an exported file in its own runtime over a split, "selection" or "test".

    Raises ExportError where it does not run or gives NaN, PlanError where the task's metric fails.
    """
    split: Split = getattr(task, split_name)
    outputs = run_exported(path, contract, split.inputs, repeat(_BATCH))
    return _judge(outputs, task, split_name, path.name)


def evaluate_model(model: nn.Module, task: Task, split_name: str) -> Evaluation:
    """The same for a net in PyTorch, as it stands. Raises ExportError where it gives NaN, PlanError."""
    split: Split = getattr(task, split_name)
    return _judge(predict(model, split.inputs), task, split_name, "the net")


def drop(source: Evaluation, exported: Evaluation) -> Drop:
    """What the exported file loses of the metric against its source, paired over the examples of one split.

    Where the metric is one number for them all, examples are resampled, which cannot show what the sample lacks:
    two of the same outputs have a drop of exactly 0.
    """
    examples = len(source.targets)
    if source.scores is not None and exported.scores is not None:
        value, low, high = statistics.paired_difference(source.scores, exported.scores)
        return Drop(value, low, high, examples)

    def lost(drawn: np.ndarray) -> float:
        of_source = _redrawn(source.task, source.outputs, source.targets, drawn)
        return of_source - _redrawn(exported.task, exported.outputs, exported.targets, drawn)

    low, high = statistics.bootstrap_of(lost, examples)
    return Drop(source.quality.value - exported.quality.value, low, high, examples)


def worst_drop(source: Evaluation, exported: Evaluation) -> float:
    """The drop that the exported file does not exceed with 95 % confidence, paired over the examples of one split.

    One-sided and, for scores of 0 and 1, close to exact (`statistics.paired_drop_bound`); for any other metric it
    is the upper end of the interval of `drop`.
    """
    a, b = source.scores, exported.scores
    if a is None or b is None or not np.isin(np.stack((a, b)), (0.0, 1.0)).all():
        return drop(source, exported).high
    return statistics.paired_drop_bound(int((a > b).sum()), int((a < b).sum()), len(a))


def _judge(outputs: Arrays, task: Task, split_name: str, what: str) -> Evaluation:
    targets: np.ndarray = getattr(task, split_name).targets
    for index, output in enumerate(outputs):
        if not np.isfinite(output).all():
            raise ExportError(f"output {index} of {what} holds NaN or infinity on the {split_name} split")
    judged = task.metric(outputs, targets)
    scores = judged if isinstance(judged, np.ndarray) else None
    value = float(np.mean(judged))
    if scores is None:
        low, high = statistics.bootstrap_of(lambda drawn: _redrawn(task, outputs, targets, drawn), len(targets))
    elif np.isin(scores, (0.0, 1.0)).all():
        low, high = statistics.wilson(int(scores.sum()), len(scores))
    else:
        low, high = statistics.bootstrap_mean(scores)
    quality = Quality(task.metric_name, split_name, value, low, high, len(targets))
    return Evaluation(quality, scores, outputs, targets, task)


def _redrawn(task: Task, outputs: Arrays, targets: np.ndarray, drawn: np.ndarray) -> float:
    """The metric of the examples drawn; NaN where they leave it undefined, as when a class is missing."""
    try:
        return float(np.mean(task.metric(tuple(output[drawn] for output in outputs), targets[drawn])))
    except PlanError:
        return float("nan")
