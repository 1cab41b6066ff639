"""The metric is taken from the exported file itself, and a loss is judged by pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgedeploy import statistics
from edgedeploy.errors import ExportError, PlanError
from edgedeploy.evaluate import Evaluation, drop, evaluate, evaluate_model, worst_drop
from edgedeploy.export import export
from edgedeploy.records import Format, Precision, Quality, Target
from edgedeploy.task import Task, load_task
from tests.export.nets import make_task

GENERATOR = np.random.default_rng(0)
VALUES = GENERATOR.normal(size=(400, 8)).astype(np.float32)
CLASSES = VALUES[:, :4].argmax(axis=1)


class FirstFour(nn.Module):
    """Gives its first four inputs, so that its accuracy on CLASSES is known: 1."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(4, 8))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(values)
        return logits


class Other(FirstFour):
    """As good as a guess."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(4, 8).roll(4, 1))


def r_squared(outputs: tuple[np.ndarray, ...], targets: np.ndarray) -> float:
    return 1.0 - float(((outputs[0] - targets) ** 2).sum() / ((targets - targets.mean(0)) ** 2).sum())


def negative_error(outputs: tuple[np.ndarray, ...], targets: np.ndarray) -> np.ndarray:
    error: np.ndarray = np.abs(outputs[0] - targets).mean(axis=1)
    return -error


def test_scores_of_zero_and_one_get_a_wilson_interval() -> None:
    evaluation = evaluate_model(FirstFour(), make_task(FirstFour, (VALUES,), CLASSES), "test")
    low, high = statistics.wilson(100, 100)
    assert evaluation.quality == Quality("accuracy", "test", 1.0, low, high, 100)
    assert evaluation.scores is not None
    assert evaluation.scores.shape == (100,)
    assert evaluation.outputs[0].shape == (100, 4)


def test_other_scores_get_a_bootstrap_interval() -> None:
    task = make_task(FirstFour, (VALUES,), VALUES[:, 4:], metric=negative_error)
    evaluation = evaluate_model(FirstFour(), task, "selection")
    assert evaluation.scores is not None
    assert evaluation.quality.low < evaluation.quality.value < evaluation.quality.high < 0
    assert evaluation.quality.value == pytest.approx(evaluation.scores.mean())


def test_one_number_for_all_examples_is_resampled() -> None:
    noisy = VALUES[:, :4] + GENERATOR.normal(size=(400, 4)).astype(np.float32)
    task = make_task(FirstFour, (VALUES,), noisy, metric=r_squared)
    evaluation = evaluate_model(FirstFour(), task, "selection")
    assert evaluation.scores is None
    assert evaluation.quality.value == pytest.approx(0.5, abs=0.15)
    assert evaluation.quality.low < evaluation.quality.value < evaluation.quality.high
    worse = evaluate_model(Other(), task, "selection")
    lost = drop(evaluation, worse)
    assert 0 < lost.low < lost.value < lost.high
    assert lost.value == pytest.approx(evaluation.quality.value - worse.quality.value)
    same = drop(evaluation, evaluation)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_a_drop_is_positive_where_the_file_is_worse() -> None:
    task = make_task(FirstFour, (VALUES,), CLASSES)
    source, worse = (evaluate_model(net(), task, "selection") for net in (FirstFour, Other))
    lost = drop(source, worse)
    assert lost.value == pytest.approx(source.quality.value - worse.quality.value)
    assert 0.5 < lost.low < lost.value < lost.high
    assert lost.examples == 100
    same = drop(source, source)
    assert same.value == 0.0
    assert same.high == pytest.approx(1 - 0.05**0.01)  # a hundred examples cannot show that nothing is lost


def test_the_worst_drop_is_that_of_the_pairs() -> None:
    task = make_task(FirstFour, (VALUES,), CLASSES)
    source, worse = (evaluate_model(net(), task, "selection") for net in (FirstFour, Other))
    assert source.scores is not None
    assert worse.scores is not None
    lost, gained = int((source.scores > worse.scores).sum()), int((source.scores < worse.scores).sum())
    assert worst_drop(source, worse) == statistics.paired_drop_bound(lost, gained, 100)
    assert worst_drop(source, source) == pytest.approx(1 - 0.05**0.01)


@pytest.mark.parametrize("metric", [r_squared, negative_error])
def test_the_worst_drop_of_any_other_metric_is_the_end_of_its_interval(metric: Any) -> None:
    task = make_task(FirstFour, (VALUES,), VALUES[:, :4], metric=metric)
    source, worse = (evaluate_model(net(), task, "selection") for net in (FirstFour, Other))
    assert worst_drop(source, worse) == drop(source, worse).high > drop(source, worse).value


def test_draws_that_leave_a_metric_undefined_are_left_out() -> None:
    def needs_both_classes(outputs: tuple[np.ndarray, ...], targets: np.ndarray) -> float:
        if len(np.unique(targets)) < 2:
            raise PlanError("only one class")
        return float(np.mean(targets))

    task = make_task(FirstFour, (VALUES[:12],), np.array([0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]), needs_both_classes)
    evaluation = evaluate_model(FirstFour(), task, "selection")
    assert 1 / 3 <= evaluation.quality.low <= evaluation.quality.high <= 2 / 3


@pytest.mark.builds
@pytest.mark.parametrize("file_format", Format)
def test_the_exported_file_is_what_is_evaluated(tmp_path: Path, file_format: Format) -> None:
    task = make_task(FirstFour, (VALUES,), CLASSES)
    # The file is of another net than the task's: only running the file can tell.
    exported = export(Other(), Target(file_format, Precision.FP32), task, tmp_path)
    of_file = evaluate(exported.path, exported.contract, task, "test")
    of_net = evaluate_model(Other(), task, "test")
    assert of_file.quality == of_net.quality
    assert of_file.quality.value < 0.5
    assert np.allclose(of_file.outputs[0], of_net.outputs[0], atol=1e-5)


def test_a_net_that_gives_nan_is_not_judged() -> None:
    class Nan(nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values.log()

    with pytest.raises(ExportError, match="output 0 of the net holds NaN or infinity on the test split"):
        evaluate_model(Nan(), make_task(Nan, (VALUES,), CLASSES), "test")


TASK = """
import numpy as np, torch
def model(): return torch.nn.Linear(8, 4)
def example(): return np.zeros((1, 8), np.float32)
def data():
    part = np.ones((6, 8), np.float32), np.zeros(6, np.int64)
    return {name: part for name in ("train", "calibration", "selection", "test")}
def metric(outputs, targets):
"""


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise KeyError('accuracy')", "raised KeyError"),
        ("return np.full(6, np.nan)", "NaN"),
        ("return np.ones((6, 4))", "shape"),
        ("return 'good'", "str"),
    ],
)
def test_a_metric_that_fails_is_the_task_files_fault(tmp_path: Path, body: str, told: str) -> None:
    file = tmp_path / "task.py"
    file.write_text(f"{TASK}    {body}\n", "utf-8")
    with pytest.raises(PlanError, match=told) as raised:
        _evaluated(load_task(file, None))
    assert str(file) in str(raised.value)


def _evaluated(task: Task) -> Evaluation:
    model: Any = task.load_model()
    return evaluate_model(model, task, "selection")
