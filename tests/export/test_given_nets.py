"""Nets that came as files go the same road: to both formats from a program, to ONNX alone from an ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgedeploy import export, pipeline
from edgedeploy.cli import main
from edgedeploy.compress import FineTune, PruneWeights, apply_passes
from edgedeploy.errors import CompressionError, ExportError, PlanError
from edgedeploy.evaluate import evaluate_model
from edgedeploy.project import Project
from edgedeploy.records import Format, Precision, Target
from edgedeploy.task import Task, load_task
from tests.support.sources import linear_onnx, save_onnx, save_program, write_task

pytestmark = pytest.mark.builds

ONNX, TFLITE = (Target(file_format, Precision.FP32) for file_format in Format)


def batch_of(target: Target, task: Task, folder: Path) -> int | None:
    exported = export.export(task.load_model(), target, task, folder)
    error = export.check_parity(exported, target, task).relative_rms_error
    assert error < (1e-5 if target.precision is Precision.FP32 else 0.1)
    size: int | None = exported.contract["inputs"][0]["shape"][0]
    return size


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("program")
    return load_task(write_task(folder), None, save_program(folder / "net.pt2"))


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("frozen")
    return load_task(write_task(folder), None, save_program(folder / "net.pt2", batch=3))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("given")
    return load_task(write_task(folder), None, save_onnx(folder / "net.onnx"))


@pytest.mark.parametrize("target", [ONNX, TFLITE, Target(Format.ONNX, Precision.INT8)], ids=str)
def test_a_program_goes_to_both_formats(program: Task, tmp_path: Path, target: Target) -> None:
    assert batch_of(target, program, tmp_path) == target.static_batch


def test_a_program_can_be_fine_tuned_and_no_more(program: Task) -> None:
    before = evaluate_model(program.load_model(), program, "selection").quality.value
    tuned = apply_passes(program.load_model(), [FineTune(20, 1e-2)], program)
    assert evaluate_model(tuned, program, "selection").quality.value > before
    with pytest.raises(CompressionError, match=r"prune-weights: net.pt2 holds a graph of operators without the layers"):
        apply_passes(program.load_model(), [FineTune(1), PruneWeights(0.5)], program)


def test_a_program_of_a_frozen_batch_goes_out_with_it(frozen: Task, tmp_path: Path) -> None:
    for target in (ONNX, TFLITE, Target(Format.ONNX, Precision.FP32, batch=2)):
        with pytest.raises(ExportError, match=r"net.pt2 takes 3 examples at once .* or ask for `batch = 3`"):
            export.export(frozen.load_model(), target, frozen, tmp_path)
    assert batch_of(Target(Format.ONNX, Precision.FP32, batch=3), frozen, tmp_path) == 3


@pytest.mark.parametrize("batch", [None, 1, 2])
def test_an_onnx_file_takes_the_batch_asked_for(given: Task, tmp_path: Path, batch: int | None) -> None:
    assert batch_of(Target(Format.ONNX, Precision.FP32, batch=batch), given, tmp_path) == batch
    written = onnx.load(tmp_path / "model.onnx")
    assert ([v.name for v in written.graph.input], written.opset_import[0].version) == (["input"], 18)


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8])
def test_an_onnx_file_is_quantised_as_others_are(given: Task, tmp_path: Path, precision: Precision) -> None:
    assert batch_of(Target(Format.ONNX, precision), given, tmp_path) is None


def test_a_layer_of_an_onnx_file_is_kept_in_float_by_the_name_of_what_it_gives(given: Task, tmp_path: Path) -> None:
    source = export.convert(given.load_model(), Format.ONNX, given, tmp_path)
    [layer] = export.layers(source)
    target = Target(Format.ONNX, Precision.INT8)
    kept = export.quantise(source, target, given, tmp_path, keep_float=[layer])
    assert export.check_parity(kept, target, given).relative_rms_error < 1e-2
    weights = [tensor for tensor in onnx.load(kept.path).graph.initializer if len(tensor.dims) == 2]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.FLOAT}


def test_an_onnx_file_is_no_source_of_tflite(given: Task, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"net.onnx holds no PyTorch net"):
        export.export(given.load_model(), TFLITE, given, tmp_path)


PLAN = """
[task]
file = "task.py"
source = "net.onnx"

[[recipe]]
name = "given"
formats = ["onnx"]
precisions = ["fp32"]
"""


def test_the_whole_road_from_an_onnx_file(tmp_path: Path) -> None:
    write_task(tmp_path)
    (tmp_path / "edgedeploy.toml").write_text(PLAN)
    save_onnx(tmp_path / "net.onnx")
    built = pipeline.build(Project(tmp_path))
    assert (built.made, built.failures) == (("given-onnx-fp32",), ())
    assert built.variants[0].parameters == 15
    assert pipeline.build(Project(tmp_path)).made == ()
    other = linear_onnx()
    other.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(np.zeros(3, np.float32), "b"))
    save_onnx(tmp_path / "net.onnx", other)
    assert pipeline.build(Project(tmp_path)).made == ("given-onnx-fp32",)
    with pytest.raises(PlanError, match="brings its own weights, so there is nothing to train"):
        pipeline.train(Project(tmp_path))


FLEET = """
[[device]]
name = "here"
profile = "old"
address = "local:"
"""

OLD = """
title = "A box of long ago"
arch = "x86_64"
memory_bytes = 1_000_000_000
transports = ["local"]

[[cpu]]
core = "core"
count = 1

[[runtime]]
name = "onnxruntime"
format = "onnx"
precisions = ["fp32"]
max_opset = 17
"""


def test_a_build_that_no_board_of_the_fleet_can_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_task(tmp_path)
    (tmp_path / "edgedeploy.toml").write_text(PLAN)
    (tmp_path / "fleet.toml").write_text(FLEET)
    (tmp_path / "device_profiles").mkdir()
    (tmp_path / "device_profiles" / "old.toml").write_text(OLD)
    save_onnx(tmp_path / "net.onnx")
    assert main(["build", "-C", str(tmp_path)]) == 0
    told = "its opset 18 is above 17, the last that onnxruntime of old reads"
    assert f"no board of the fleet runs given-onnx-fp32: {told}" in capsys.readouterr().out
    built = pipeline.build(Project(tmp_path))
    assert built.no_board == (("given-onnx-fp32", told),)
    [rejected] = pipeline.select(Project(tmp_path))[0].rejected
    assert rejected.reason == told
    (tmp_path / "device_profiles" / "old.toml").write_text(OLD.replace("17", "18"))
    assert pipeline.build(Project(tmp_path)).no_board == ()
