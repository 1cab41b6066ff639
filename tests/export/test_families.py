"""CNN, recurrent net and Transformer, in each precision of both formats: the file computes what the net does."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edgedeploy import export
from edgedeploy.evaluate import drop, evaluate, evaluate_model
from edgedeploy.export import parity
from edgedeploy.exported_file import run_exported
from edgedeploy.on_device.runtimes import open_model
from edgedeploy.records import Format, Precision, Target
from tests.export.conftest import FAMILIES, Make, Trained

pytestmark = pytest.mark.builds

TARGETS = [Target(file_format, precision) for file_format in Format for precision in Precision]
every_case = pytest.mark.parametrize(
    ("family", "target"),
    [pytest.param(family, target, id=f"{family}-{target}") for family in FAMILIES for target in TARGETS],
)


@every_case
def test_the_file_computes_what_the_net_computes(make: Make, family: str, target: Target) -> None:
    case = make(family, target)
    measured = export.check_parity(case.exported, target, case.task)
    assert measured.relative_rms_error <= measured.tolerance == parity.TOLERANCE[target.precision]
    assert measured.max_abs_error > 0
    assert measured.examples == 64
    if target.precision is Precision.FP32:
        assert measured.relative_rms_error < 1e-5
    else:  # fp32 under another name would be closer
        assert measured.relative_rms_error > 1e-5


@every_case
def test_accuracy_survives(make: Make, family: str, target: Target) -> None:
    case = make(family, target)
    source = evaluate_model(case.model, case.task, "selection")
    assert source.quality.value > 0.8
    lost = drop(source, evaluate(case.exported.path, case.exported.contract, case.task, "selection"))
    assert lost.low <= lost.value <= lost.high
    assert lost.value < (0.02 if target.precision in (Precision.INT8, Precision.W4) else 0.005)


@every_case
def test_what_travels_with_the_file_is_true(make: Make, family: str, target: Target) -> None:
    case = make(family, target)
    contract = json.loads(json.dumps(case.exported.contract, allow_nan=False))
    assert contract["schema"] == 1
    assert (contract["format"], contract["precision"]) == (target.format, target.precision)
    assert contract["labels"] == list("0123456789")
    assert contract["preprocessing"] == "grey values divided by 16"
    [entry], [result] = contract["inputs"], contract["outputs"]
    batch = None if target.format is Format.ONNX else 1
    assert (entry["name"], entry["shape"], entry["real_type"]) == ("input", [batch, 8, 8], "float32")
    assert (result["name"], result["shape"], result["real_type"]) == ("output", [batch, 10], "float32")
    kinds = {Precision.INT8: "int8", Precision.INT16X8: "int16"} if target.format is Format.TFLITE else {}
    integer = target.precision in kinds
    assert entry["type"] == result["type"] == kinds.get(target.precision, "float32")
    assert (entry["scale"] is not None) is (result["zero_point"] is not None) is integer

    with np.load(case.exported.probe_path) as probe:
        assert sorted(probe) == ["input_0", "output_0"]
        inputs, outputs = probe["input_0"], probe["output_0"]
    assert np.array_equal(inputs, case.task.selection.inputs[0][:4])
    model = open_model(str(case.exported.path), contract)
    alone = [model.run([inputs[i : i + 1]])[0] for i in range(4)]
    assert np.array_equal(outputs, np.concatenate(alone))
    assert sorted(path.name for path in case.exported.path.parent.iterdir()) == [f"model.{target.format}", "probe.npz"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", Precision)
def test_an_onnx_file_takes_any_batch(make: Make, family: str, precision: Precision) -> None:
    # Exported from one example, recurrent nets and Transformers silently come out for a batch of one.
    case = make(family, Target(Format.ONNX, precision))
    images = case.task.test.inputs[0]
    model = open_model(str(case.exported.path), case.exported.contract)
    with torch.no_grad():
        for batch in (1, 2, 5):
            [output] = model.run([images[:batch]])
            expected = case.model(torch.from_numpy(images[:batch])).numpy()
            assert output.shape == (batch, 10)
            assert parity.relative_rms_error(output, expected) < parity.TOLERANCE[precision]


@pytest.mark.parametrize("file_format", Format)
def test_lower_precision_is_smaller_where_weights_rule(make: Make, file_format: Format) -> None:
    sizes = [
        make("transformer", Target(file_format, precision)).exported.path.stat().st_size
        for precision in (Precision.FP32, Precision.FP16, Precision.INT8)
    ]
    assert sizes[1] < 0.7 * sizes[0]
    assert sizes[2] < sizes[1]


def test_the_same_net_gives_the_same_bytes_in_another_process(make: Make, trained: Trained, tmp_path: Path) -> None:
    _, model = trained("cnn")
    targets = [target for target in TARGETS if target.precision is not Precision.FP32]
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    script = f"""
import hashlib, pathlib, tempfile, torch
from edgedeploy import export
from edgedeploy.records import Format, Precision, Target
from tests.export import nets
torch.set_num_threads(1)
task, model = nets.digits_task(nets.Cnn), nets.Cnn().eval()
model.load_state_dict(torch.load({str(tmp_path / "weights.pt")!r}, weights_only=True))
for file_format, precisions in {[(str(f), [str(t.precision) for t in targets if t.format is f]) for f in Format]}:
    with tempfile.TemporaryDirectory() as folder:
        source = export.convert(model, Format(file_format), task, pathlib.Path(folder))
        for precision in precisions:
            target = Target(Format(file_format), Precision(precision))
            exported = export.quantise(source, target, task, pathlib.Path(folder))
            for path in (exported.path, exported.probe_path):
                print(hashlib.sha256(path.read_bytes()).hexdigest())
"""
    again = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    exported = [make("cnn", target).exported for target in targets]
    paths = [path for one in exported for path in (one.path, one.probe_path)]
    # Nothing else on stdout: the converters' chatter stays inside.
    assert again.stdout.split() == [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    assert "LiteRT" not in again.stderr
    assert "torchvision" not in again.stderr


def test_exporting_leaves_the_net_as_it_was(make: Make, trained: Trained, tmp_path: Path) -> None:
    task, model = trained("cnn")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    try:
        export.export(model, Target(Format.ONNX, Precision.FP32), task, tmp_path)
        assert model.training
    finally:
        model.eval()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # Dropout and batch statistics were off in the file all the same.
    twin = make("cnn", Target(Format.ONNX, Precision.FP32)).exported.path
    assert (tmp_path / "model.onnx").read_bytes() == twin.read_bytes()


def test_what_stayed_in_float_is_told(make: Make) -> None:
    gru = make("gru", Target(Format.ONNX, Precision.INT8)).exported
    assert gru.notes == ("computed in float, only stored as int8: GRU",)
    assert make("cnn", Target(Format.ONNX, Precision.INT8)).exported.notes == ()
    assert make("cnn", Target(Format.TFLITE, Precision.INT8)).exported.notes == ()
    [transformer] = make("transformer", Target(Format.TFLITE, Precision.INT8)).exported.notes
    assert "RSQRT" in transformer
    assert "FULLY_CONNECTED" not in transformer


def test_one_example_at_a_time_or_all_at_once_is_the_same(make: Make) -> None:
    case = make("gru", Target(Format.TFLITE, Precision.FP32))
    inputs = case.task.test.inputs
    all_at_once = run_exported(case.exported.path, case.exported.contract, inputs, iter([1000]))
    by_sevens = run_exported(case.exported.path, case.exported.contract, inputs, iter([7] * 1000))
    assert np.array_equal(all_at_once[0], by_sevens[0])
    assert len(all_at_once[0]) == len(inputs[0])
