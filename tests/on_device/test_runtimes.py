"""One way to run a file: real runtimes, real files, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgedeploy.on_device.runtimes import RUNTIMES, RuntimeUnavailable, UnsupportedModel, open_model
from tests.on_device import models

EXPECTED = models.EXAMPLES @ models.WEIGHTS


def test_onnx_takes_any_batch(onnx_file: str) -> None:
    model = open_model(onnx_file, models.ONNX)
    assert (model.runtime, model.placement([models.EXAMPLES])) == ("onnxruntime", {"cpu": 1})
    assert model.version[0].isdigit()
    for count in (1, 4):
        np.testing.assert_allclose(model.run([models.EXAMPLES[:count]])[0], EXPECTED[:count], rtol=1e-5)


def test_tflite_of_batch_one_runs_example_by_example(tflite_file: str) -> None:
    model = open_model(tflite_file, models.TFLITE)
    assert (model.runtime, model.placement([models.EXAMPLES[:1]])) == ("ai_edge_litert", {"xnnpack": 1})
    np.testing.assert_allclose(model.run([models.EXAMPLES])[0], EXPECTED, rtol=1e-5)


def test_int8_file_is_fed_and_read_in_real_values(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(models.tflite_dense(int8=True))
    output = open_model(str(tmp_path / "m.tflite"), models.TFLITE_INT8).run([models.EXAMPLES])[0]
    assert output.dtype == np.float32
    np.testing.assert_allclose(output, EXPECTED, atol=0.2)
    steps = output / (8 / 127)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)


def test_phases_apart_give_what_run_gives(onnx_file: str) -> None:
    model = open_model(onnx_file, models.ONNX)
    prepared = model.prepare([models.EXAMPLES.astype(np.float64)])
    np.testing.assert_array_equal(model.finish(model.invoke(prepared))[0], model.run([models.EXAMPLES])[0])


def test_examples_that_are_no_multiple_of_the_batch_are_refused(tflite_file: str) -> None:
    two = models.contract("tflite", [models.tensor("x", [2, 8])], [models.tensor("y", [2, 3])])
    with pytest.raises(ValueError, match="takes 2 examples at once; 3 is no multiple"):
        open_model(tflite_file, two).run([models.EXAMPLES[:3]])


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
@pytest.mark.parametrize("content", [b"", b"garbage " * 100])
def test_garbage_is_unsupported(tmp_path: Path, kind: str, content: bytes) -> None:
    path = tmp_path / "model"
    path.write_bytes(content)
    with pytest.raises(UnsupportedModel):
        open_model(str(path), models.ONNX if kind == "onnx" else models.TFLITE)


def test_unknown_operator_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(models.tflite_dense(custom="Frobnicate"))
    with pytest.raises(UnsupportedModel, match="Frobnicate"):
        open_model(str(tmp_path / "m.tflite"), models.TFLITE)


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_a_contract_of_another_file_is_refused(onnx_file: str, tflite_file: str, side: str) -> None:
    for path, contract in ((onnx_file, models.ONNX), (tflite_file, models.TFLITE)):
        other = contract | {side: [dict(contract[side][0], name="other")]}
        with pytest.raises(UnsupportedModel, match=r"its contract says \['other'\]"):
            open_model(path, other)


def test_wrong_shape_is_the_runtimes_refusal(onnx_file: str, tflite_file: str) -> None:
    for path, contract in ((onnx_file, models.ONNX), (tflite_file, models.TFLITE)):
        with pytest.raises(UnsupportedModel, match=r"(?i)dimension"):
            open_model(path, contract).run([np.zeros((1, 5), np.float32)])


def test_want_of_memory_is_no_refusal(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(models.onnx_petabyte())
    with pytest.raises(MemoryError):
        open_model(str(tmp_path / "m.onnx"), models.ONNX).run([models.EXAMPLES])


def test_no_runtime_names_those_that_would_do(tflite_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [(name, f"absent_{name}", load) for name, _, load in RUNTIMES["tflite"]]
    monkeypatch.setitem(RUNTIMES, "tflite", tuple(names))
    with pytest.raises(RuntimeUnavailable, match="ai_edge_litert or tflite_runtime"):
        open_model(tflite_file, models.TFLITE)


def test_the_second_runtime_is_tried_when_the_first_is_missing(
    tflite_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = RUNTIMES["tflite"]
    monkeypatch.setitem(RUNTIMES, "tflite", (("tflite_runtime", "absent_runtime", known[0][2]), known[0]))
    assert open_model(tflite_file, models.TFLITE).runtime == "ai_edge_litert"
