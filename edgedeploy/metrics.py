"""Metrics that a task file may import, so that nobody writes the usual ones again and gets an edge of them wrong.

    from edgedeploy.metrics import f1

    def metric(outputs, targets):
        return f1(outputs, targets, average="macro")

All are better when higher. `outputs` is what `metric()` gets, of which the first array counts, or an array; targets
have one entry for each example, or are shaped like the output without its axis of classes. Those that are means over
examples give one score for each, shape (n,), so that two variants can be compared in pairs; the others one number.
Classes are the largest of the second axis, the first of equal ones; with one value for each example, 1 above
`threshold`, else 0: 0.0 fits logits, 0.5 probabilities. Each raises ValueError for shapes that do not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

__all__ = [
    "accuracy",
    "f1",
    "negative_mean_absolute_error",
    "negative_mean_squared_error",
    "precision",
    "r_squared",
    "recall",
    "top_k",
]

Outputs = Sequence[np.ndarray] | np.ndarray
Average = Literal["macro", "micro"] | int


def accuracy(outputs: Outputs, targets: np.ndarray, threshold: float = 0.0) -> np.ndarray:
    """1 where the class is right, else 0, shape (n,); with further axes, as for segments, the share that is right."""
    predicted, right = _classes(outputs, targets, threshold)
    scores: np.ndarray = (predicted == right).reshape(len(right), -1).mean(axis=1)
    return scores


def top_k(outputs: Outputs, targets: np.ndarray, k: int = 5) -> np.ndarray:
    """1 where the right class is among the k highest of the output, shape (n, classes), else 0; shape (n,).

    O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 115 (2015), section 4.1. Of equal
    outputs the first counts as higher, so that k = 1 is `accuracy`.
    """
    output, right = _first(outputs), np.asarray(targets)
    if output.ndim != 2 or right.shape != output.shape[:1]:
        raise ValueError(f"top_k needs outputs (n, classes) and targets (n,), not {output.shape} and {right.shape}")
    if k < 1 or right.min() < 0 or right.max() >= output.shape[1]:
        raise ValueError(f"k is {k} and targets go from {right.min()} to {right.max()}, of {output.shape[1]} classes")
    of_right = output[np.arange(len(right)), right][:, None]
    before = np.arange(output.shape[1]) < right[:, None]
    ahead = ((output > of_right) | ((output == of_right) & before)).sum(axis=1)
    scores: np.ndarray = (ahead < k).astype(np.float64)
    return scores


def precision(outputs: Outputs, targets: np.ndarray, average: Average = "macro", threshold: float = 0.0) -> float:
    """TP / (TP + FP); 0 for a class that is never predicted. See `f1` for `average` and the source."""
    hits, predicted, _ = _counts(outputs, targets, average, threshold)
    return _mean_ratio(hits, predicted)


def recall(outputs: Outputs, targets: np.ndarray, average: Average = "macro", threshold: float = 0.0) -> float:
    """TP / (TP + FN); 0 for a class that is predicted but does not occur. See `f1` for `average` and the source."""
    hits, _, there = _counts(outputs, targets, average, threshold)
    return _mean_ratio(hits, there)


def f1(outputs: Outputs, targets: np.ndarray, average: Average = "macro", threshold: float = 0.0) -> float:
    """2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall.

    M. Sokolova, G. Lapalme, A systematic analysis of performance measures for classification tasks, Information
    Processing & Management 45 (2009), 427-437, tables 2 and 3, but for F1 over classes, which is the mean of their
    F1. "macro" is the mean over the classes that occur or are predicted, "micro" counts all classes together, a
    number is that class alone; ValueError where it neither occurs nor is predicted.
    """
    hits, predicted, there = _counts(outputs, targets, average, threshold)
    return _mean_ratio(2 * hits, predicted + there)


def negative_mean_squared_error(outputs: Outputs, targets: np.ndarray) -> np.ndarray:
    """Minus the mean of (output - target)^2 over the values of each example, shape (n,)."""
    difference = _difference(outputs, targets)
    scores: np.ndarray = -(difference**2).mean(axis=1)
    return scores


def negative_mean_absolute_error(outputs: Outputs, targets: np.ndarray) -> np.ndarray:
    """Minus the mean of |output - target| over the values of each example, shape (n,)."""
    scores: np.ndarray = -np.abs(_difference(outputs, targets)).mean(axis=1)
    return scores


def r_squared(outputs: Outputs, targets: np.ndarray) -> float:
    """1 - sum (output - target)^2 / sum (target - mean)^2, the coefficient of determination, as a mean over columns.

    N. R. Draper, H. Smith, Applied Regression Analysis (1998), section 1.3. Raises ValueError for a column whose
    targets are all the same.
    """
    difference = _difference(outputs, targets)
    wanted = np.asarray(targets, dtype=np.float64).reshape(difference.shape)
    spread = ((wanted - wanted.mean(axis=0)) ** 2).sum(axis=0)
    if not spread.all():
        raise ValueError("r_squared is not defined where all targets are the same")
    return float((1.0 - (difference**2).sum(axis=0) / spread).mean())


def _first(outputs: Outputs) -> np.ndarray:
    return np.asarray(outputs if isinstance(outputs, np.ndarray) else outputs[0])


def _difference(outputs: Outputs, targets: np.ndarray) -> np.ndarray:
    """Output less target in float64, shape (n, values)."""
    output, wanted = _first(outputs), np.asarray(targets)
    if output.size != wanted.size or len(output) != len(wanted):
        raise ValueError(f"outputs {output.shape} and targets {wanted.shape} differ in shape")
    rows = len(output)
    return output.reshape(rows, -1).astype(np.float64) - wanted.reshape(rows, -1).astype(np.float64)


def _classes(outputs: Outputs, targets: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and right classes, of one shape."""
    output, right = _first(outputs), np.asarray(targets)
    if output.ndim == right.ndim + 1 and output.shape[1] > 1:
        predicted = output.argmax(axis=1)
    else:
        predicted = (output > threshold).astype(np.int64)
        predicted = predicted[:, 0] if output.ndim == right.ndim + 1 else predicted
    if predicted.shape != right.shape:
        raise ValueError(f"outputs {output.shape} do not fit targets {right.shape}")
    return predicted, right.astype(np.int64)


def _counts(
    outputs: Outputs, targets: np.ndarray, average: Average, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each class, or all together, is hit, predicted and there."""
    predicted, right = (classes.ravel() for classes in _classes(outputs, targets, threshold))
    if min(predicted.min(), right.min()) < 0:
        raise ValueError("classes are counted from 0, and a target is negative")
    size = int(max(predicted.max(), right.max())) + 1
    hits = np.bincount(right[predicted == right], minlength=size)
    by_class = np.stack((hits, np.bincount(predicted, minlength=size), np.bincount(right, minlength=size)))
    if average == "micro":
        chosen = by_class.sum(axis=1, keepdims=True)
    elif average == "macro":
        chosen = by_class[:, by_class[1:].any(axis=0)]
    elif isinstance(average, int):
        chosen = by_class[:, average : average + 1] if 0 <= average < size else by_class[:, :0]
        if not chosen[1:].any():
            raise ValueError(f"class {average} neither occurs nor is predicted")
    else:
        raise ValueError(f"average is {average!r}; it must be 'macro', 'micro' or the number of a class")
    return chosen[0], chosen[1], chosen[2]


def _mean_ratio(parts: np.ndarray, wholes: np.ndarray) -> float:
    return float(np.divide(parts, wholes, out=np.zeros(len(parts)), where=wholes > 0).mean())
