"""A net that cannot be exported is refused in one sentence that says what stands in the way."""

from __future__ import annotations

import re
import signal
import stat
import sys
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgedeploy import export, exported_file
from edgedeploy.errors import ExportError, ParityError
from edgedeploy.export.contract import build_contract
from edgedeploy.export.parity import compare, relative_rms_error
from edgedeploy.exported_file import run_exported, run_once_apart
from edgedeploy.on_device.runtimes import RuntimeUnavailable
from edgedeploy.records import Format, Precision, Target
from tests.export.conftest import Make
from tests.export.nets import make_task

pytestmark = pytest.mark.builds

VALUES = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
ONNX, TFLITE = Target(Format.ONNX, Precision.FP32), Target(Format.TFLITE, Precision.FP32)


class Apply(nn.Module):
    """A layer, then a function."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.function = function

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.function(self.layer(values))


def refusal(model: nn.Module, target: Target, folder: Path, *inputs: np.ndarray) -> str:
    with pytest.raises(ExportError) as raised:
        export.export(model, target, make_task(lambda: model, inputs or (VALUES,)), folder)
    message = str(raised.value)
    assert "\n" not in message
    assert not list(folder.iterdir()), "something half-written is left"
    return message


@pytest.mark.parametrize("target", [ONNX, TFLITE], ids=str)
def test_an_operator_the_format_lacks_is_named_with_its_module(tmp_path: Path, target: Target) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(Apply(torch.special.bessel_j0)))
    message = refusal(model, target, tmp_path)
    assert re.search(r"the operator \w+\.(special_)?bessel_j0, used in module `1\.0`, cannot be exported", message)


def test_an_operator_that_only_the_compiler_behind_refuses_is_named_too(tmp_path: Path) -> None:
    message = refusal(Apply(lambda values: torch.fft.fft(values).abs()), TFLITE, tmp_path)
    assert "aten.fft_fft" in message


@pytest.mark.parametrize("target", [ONNX, TFLITE], ids=str)
def test_control_flow_that_depends_on_values_is_named_with_its_line(tmp_path: Path, target: Target) -> None:
    def branch(values: torch.Tensor) -> torch.Tensor:
        return values if values.sum() > 0 else -values

    message = refusal(Apply(branch), target, tmp_path)
    assert f"control flow at {__file__}:{branch.__code__.co_firstlineno + 1} depends on the values" in message


def test_a_net_that_fixes_its_batch_when_it_is_traced(tmp_path: Path) -> None:
    def fix(values: torch.Tensor) -> torch.Tensor:
        return values * 2 if values.shape[0] == 2 else values

    assert "fixes the size of its batch axis" in refusal(Apply(fix), ONNX, tmp_path)


@pytest.mark.parametrize("target", [ONNX, TFLITE], ids=str)
def test_a_net_that_takes_one_example_only(tmp_path: Path, target: Target) -> None:
    model = Apply(lambda values: values.reshape(1, 8))
    assert "raised RuntimeError on a batch of 16 from the selection split" in refusal(model, target, tmp_path)


@pytest.mark.parametrize("target", [ONNX, TFLITE], ids=str)
def test_a_net_that_gives_nan(tmp_path: Path, target: Target) -> None:
    message = refusal(Apply(lambda values: (values - 100.0).log()), target, tmp_path)
    assert "output 0 of the net holds NaN or infinity" in message


def test_a_net_that_is_not_float32(tmp_path: Path) -> None:
    model = Apply(torch.relu).double()
    assert "layer.weight is float64" in refusal(model, ONNX, tmp_path, VALUES.astype(np.float64))
    assert "example() is float64" in refusal(Apply(torch.relu), ONNX, tmp_path, VALUES.astype(np.float64))


def test_an_input_that_the_net_ignores(tmp_path: Path) -> None:
    class Ignores(Apply):
        def forward(self, values: torch.Tensor, _other: torch.Tensor | None = None) -> torch.Tensor:
            return super().forward(values)

    with pytest.raises(ExportError, match="the net has 2 inputs, the exported file 1"):
        export.export(Ignores(torch.relu), ONNX, make_task(lambda: Ignores(torch.relu), (VALUES, VALUES)), tmp_path)


@pytest.mark.parametrize("target", [ONNX, TFLITE], ids=str)
def test_a_wrong_number_of_inputs(tmp_path: Path, target: Target) -> None:
    message = refusal(Apply(torch.relu), target, tmp_path, VALUES, VALUES)
    assert "raised TypeError on a batch of 16 from the selection split" in message
    assert "2 positional arguments but 3 were given" in message


@pytest.mark.parametrize("target", [ONNX, TFLITE], ids=str)
def test_an_integer_beyond_the_embedding(tmp_path: Path, target: Target) -> None:
    tokens = np.zeros((64, 3), np.int64)
    tokens[2] = 9  # the selection split's first
    message = refusal(nn.Sequential(nn.Embedding(9, 4), nn.Flatten()), target, tmp_path, tokens)
    assert "raised IndexError on a batch of 16 from the selection split: index out of range" in message


def test_a_file_that_crashes_its_runtime_does_not_take_us_along(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = make("cnn", ONNX).exported
    run_once_apart(exported.path, exported.contract)
    crash = tmp_path / "python"
    crash.write_text("#!/bin/sh\nkill -SEGV $$\n", "utf-8")
    crash.chmod(crash.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(crash))
    with pytest.raises(ExportError, match=signal.SIGSEGV.name):
        run_once_apart(exported.path, exported.contract)


def test_a_file_that_hangs_its_runtime_is_given_up(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = make("cnn", ONNX).exported
    hang = tmp_path / "python"
    hang.write_text("#!/bin/sh\nexec sleep 60\n", "utf-8")
    hang.chmod(hang.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(hang))
    monkeypatch.setattr(exported_file, "_FIRST_RUN_TIMEOUT_S", 0.2)
    with pytest.raises(ExportError, match="has not answered"):
        run_once_apart(exported.path, exported.contract)


@pytest.mark.parametrize("target", [ONNX, TFLITE], ids=str)
def test_a_file_that_its_runtime_refuses(make: Make, tmp_path: Path, target: Target) -> None:
    case = make("cnn", target)
    broken = tmp_path / case.exported.path.name
    broken.write_bytes(case.exported.path.read_bytes()[:100])
    with pytest.raises(ExportError, match="its own runtime refuses"):
        run_exported(broken, case.exported.contract, case.task.test.inputs, repeat(1))


def test_a_machine_without_the_runtime(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make("cnn", TFLITE)

    def nowhere(*args: Any, **kwargs: Any) -> None:
        raise RuntimeUnavailable("ai_edge_litert", "no module of that name")

    monkeypatch.setattr(exported_file, "open_model", nowhere)
    with pytest.raises(ExportError, match="pip install ai-edge-litert"):
        run_exported(case.exported.path, case.exported.contract, case.task.test.inputs, repeat(1))


def test_a_file_of_another_net_is_no_parity(make: Make) -> None:
    case = make("cnn", ONNX)
    reference = (np.ones((64, 10), np.float32),)
    with pytest.raises(ParityError, match=r"relative error of .*, where 0.0001 is allowed"):
        compare(case.exported.path, case.exported.contract, ONNX, case.task, reference)


def test_nan_from_the_file_is_no_parity(tmp_path: Path) -> None:
    # 100,000 is beyond what a half can hold, so the fp16 file overflows where the net does not.
    model = Apply(lambda values: (values * 0 + 1e5) * 1e5 / 1e10 - 1.0)
    target = Target(Format.ONNX, Precision.FP16)
    task = make_task(lambda: model, (VALUES,))
    exported = export.export(model, target, task, tmp_path)
    with pytest.raises(ParityError):
        export.check_parity(exported, target, task)


def test_relative_error_of_zeros_and_of_integers() -> None:
    zeros = np.zeros(4, np.float32)
    assert relative_rms_error(zeros, zeros) == 0.0
    assert relative_rms_error(zeros + 1, zeros) == float("inf")
    assert relative_rms_error(np.array([1.0, 2.2]), np.array([1.0, 2.0])) == pytest.approx(0.2 / 5**0.5)
    assert relative_rms_error(np.array([1, 2, 3, 5]), np.array([1, 2, 3, 400])) == 0.25


def test_a_contract_must_be_of_the_net() -> None:
    task = make_task(lambda: nn.Linear(8, 4), (VALUES,))
    tensor = {"name": "x", "type": "float32", "scale": None, "zero_point": None}
    entry, result = {**tensor, "shape": [None, 8]}, {**tensor, "name": "output", "shape": [None, None]}
    outputs = (np.ones((3, 4), np.float32),)
    contract = build_contract(ONNX, [entry], [result], task, outputs)
    assert contract["outputs"][0]["shape"] == [None, 4]  # what the file leaves open, the net settles
    with pytest.raises(ExportError, match="has 1 outputs, the exported file 2"):
        build_contract(ONNX, [entry], [result, result], task, outputs)
    with pytest.raises(ExportError, match=r"output of the exported file has shape \[None, 5\]"):
        build_contract(ONNX, [entry], [{**result, "shape": [None, 5]}], task, outputs)
    with pytest.raises(ExportError, match="batch axis of any size, not of 1"):
        build_contract(TFLITE, [entry], [result], task, outputs)
