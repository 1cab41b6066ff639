"""Metrics by hand, and beside scikit-learn's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as peer

from edgedeploy import metrics
from edgedeploy.errors import PlanError
from edgedeploy.task import load_task
from tests.support.nets import write_task

# Predicted 0 0 1 2 2 against 0 1 1 2 0; no example of class 3, which is never predicted either.
LOGITS = np.array([[3, 1, 0, 0], [2, 1, 0, 0], [0, 5, 1, 0], [0, 0, 1, 0], [1, 0, 2, 0]], np.float32)
RIGHT = np.array([0, 1, 1, 2, 0])


def test_scores_of_single_examples() -> None:
    assert metrics.accuracy((LOGITS,), RIGHT).tolist() == [1, 0, 1, 1, 0]
    assert metrics.accuracy(LOGITS, RIGHT).tolist() == [1, 0, 1, 1, 0]
    assert metrics.top_k((LOGITS,), RIGHT, k=1).tolist() == [1, 0, 1, 1, 0]
    assert metrics.top_k((LOGITS,), RIGHT, k=2).tolist() == [1, 1, 1, 1, 1]


def test_of_equal_outputs_the_first_is_higher() -> None:
    level = np.ones((3, 3), np.float32)
    assert metrics.top_k(level, np.array([0, 1, 2]), k=1).tolist() == [1, 0, 0]
    assert metrics.top_k(level, np.array([0, 1, 2]), k=2).tolist() == [1, 1, 0]
    assert metrics.accuracy(level, np.array([0, 1, 2])).tolist() == [1, 0, 0]


def test_one_number_for_all_examples() -> None:
    # By class: hits 1 1 1, predicted 2 1 2, there 2 2 1.
    assert metrics.precision((LOGITS,), RIGHT) == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
    assert metrics.recall((LOGITS,), RIGHT) == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert metrics.f1((LOGITS,), RIGHT) == pytest.approx((2 / 4 + 2 / 3 + 2 / 3) / 3)
    assert metrics.f1((LOGITS,), RIGHT, average=1) == pytest.approx(2 / 3)
    for function in (metrics.precision, metrics.recall, metrics.f1):
        assert function((LOGITS,), RIGHT, average="micro") == pytest.approx(3 / 5)


def test_one_output_is_two_classes() -> None:
    logits, right = np.array([[-1.0], [0.2], [3.0], [-0.1]], np.float32), np.array([0, 1, 0, 1])
    assert metrics.accuracy((logits,), right).tolist() == [1, 1, 0, 0]
    assert metrics.accuracy((logits,), right[:, None]).tolist() == [1, 1, 0, 0]
    assert metrics.accuracy((logits[:, 0],), right, threshold=0.5).tolist() == [1, 0, 0, 0]
    assert metrics.recall((logits,), right, average=1) == 0.5


def test_a_map_of_classes_scores_its_share() -> None:
    maps = np.zeros((2, 3, 2, 2), np.float32)
    maps[:, 1] = 1.0
    assert metrics.accuracy((maps,), np.array([[[1, 1], [1, 0]], [[0, 2], [1, 1]]])).tolist() == [0.75, 0.5]


def test_errors_are_negated() -> None:
    outputs, targets = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[1.0, 4.0], [3.0, 4.0]])
    assert metrics.negative_mean_squared_error((outputs,), targets).tolist() == [-2.0, -12.5]
    assert metrics.negative_mean_absolute_error((outputs,), targets).tolist() == [-1.0, -3.5]
    assert metrics.negative_mean_squared_error((outputs[:, :1],), targets[:, 0]).tolist() == [0.0, -9.0]
    assert metrics.r_squared((outputs[:, :1],), targets[:, 0]) == pytest.approx(1 - 9 / 2)


@pytest.mark.parametrize("classes", [2, 7])
def test_they_agree_with_scikit_learn(classes: int) -> None:
    generator = np.random.default_rng(classes)
    logits = generator.normal(size=(200, classes))
    right = generator.integers(0, classes - (classes > 2), size=200)  # the last of seven classes never occurs
    guess = logits.argmax(axis=1)
    assert metrics.accuracy((logits,), right).mean() == pytest.approx(peer.accuracy_score(right, guess))
    for ours, theirs in (
        (metrics.precision, peer.precision_score),
        (metrics.recall, peer.recall_score),
        (metrics.f1, peer.f1_score),
    ):
        function: Callable[..., float] = ours
        for average in ("macro", "micro"):
            wanted = theirs(right, guess, average=average, zero_division=0.0)
            assert function((logits,), right, average=average) == pytest.approx(wanted)
        for one in range(classes):
            wanted = theirs(right, guess, labels=[one], average="macro", zero_division=0.0)
            assert function((logits,), right, average=one) == pytest.approx(wanted)
    if classes > 2:
        for k in (1, 2, 5):
            wanted = peer.top_k_accuracy_score(right, logits, k=k, labels=range(classes))
            assert metrics.top_k((logits,), right, k=k).mean() == pytest.approx(wanted)


def test_regression_agrees_with_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    targets = generator.normal(size=(100, 3))
    outputs = targets + generator.normal(size=(100, 3))
    ours = metrics.negative_mean_squared_error((outputs,), targets).mean()
    assert ours == pytest.approx(-peer.mean_squared_error(targets, outputs))
    ours = metrics.negative_mean_absolute_error((outputs,), targets).mean()
    assert ours == pytest.approx(-peer.mean_absolute_error(targets, outputs))
    assert metrics.r_squared((outputs,), targets) == pytest.approx(peer.r2_score(targets, outputs))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: metrics.accuracy(LOGITS, RIGHT[:3]), "do not fit"),
        (lambda: metrics.top_k(LOGITS, RIGHT, k=0), "k is 0"),
        (lambda: metrics.top_k(LOGITS, RIGHT + 2), "of 4 classes"),
        (lambda: metrics.top_k(LOGITS[:, 0], RIGHT), "needs outputs"),
        (lambda: metrics.f1(LOGITS, RIGHT, average=3), "class 3 neither occurs"),
        (lambda: metrics.f1(LOGITS, RIGHT, average=9), "class 9 neither occurs"),
        (lambda: metrics.recall(LOGITS, RIGHT, average="weighted"), "'macro', 'micro'"),  # type: ignore[arg-type]
        (lambda: metrics.precision(LOGITS, RIGHT - 1), "negative"),
        (lambda: metrics.negative_mean_squared_error(LOGITS, RIGHT), "differ in shape"),
        (lambda: metrics.r_squared(np.ones(3), np.ones(3)), "not defined"),
    ],
)
def test_what_does_not_fit_is_told(call: Callable[[], object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        call()


def test_a_task_file_uses_them(tmp_path: Path) -> None:
    own = ("return outputs[0].argmax(axis=1) == targets", "return recall(outputs, targets)")
    task = load_task(write_task(tmp_path, own, extra="\nfrom edgedeploy.metrics import recall\n"), None)
    perfect = np.eye(3, dtype=np.float32)[task.test.targets]
    assert task.metric((perfect,), task.test.targets) == 1.0
    with pytest.raises(PlanError, match=r"task\.py:\d+: metric\(\) raised ValueError: outputs .* do not fit"):
        task.metric((perfect[:2],), task.test.targets)
