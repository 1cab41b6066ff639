"""The real agent, packed as a board gets it, in a process of its own: what it measures and how it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedeploy.on_device.lock import board_lock
from edgedeploy.packing import pack
from edgedeploy.records import Format
from tests.on_device import models
from tests.on_device.virtual_board import VirtualBoard, oldest_python, profile, sha256

LONG = {"min_seconds": 60.0, "repetitions": 1}


def measured(board: VirtualBoard, *variants: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    (result,) = board.run(profile(*variants, **more))
    found: list[dict[str, Any]] = result["variants"]
    return found


def test_all_operations_in_one_job(board: VirtualBoard, variant: dict[str, Any]) -> None:
    content = b"another object"
    (board.root / "tmp" / "upload").write_bytes(content)
    admission = {"temporary": "tmp/upload", "sha256": sha256(content), "size_bytes": len(content)}
    facts, admitted, inventory, profiled = board.run(
        {"op": "facts"},
        {"op": "admit", "objects": [admission]},
        {"op": "inventory", "objects": {sha256(content): len(content), "f" * 64: 1}},
        profile(variant),
    )
    assert set(facts["facts"]["runtimes"]) >= {"onnxruntime", "ai_edge_litert"}
    assert facts["facts"]["memory_bytes"] > 1 << 20
    assert admitted["admitted"] == inventory["present"] == [sha256(content)]
    (result,) = profiled["variants"]
    assert (result["outcome"], result["detail"]) == ("ok", "")
    assert (result["runtime"], result["accelerator_used"]) == ("onnxruntime", "cpu")
    assert result["max_output_error"] <= 1e-6
    assert len(result["repetitions"]) == 2
    assert sum(len(repetition["samples_ns"]) for repetition in result["repetitions"]) >= 64
    for repetition in result["repetitions"]:
        assert sum(repetition["samples_ns"]) <= 10**9
        assert repetition["first_inference_ns"] > min(repetition["samples_ns"])
        assert repetition["init_ns"] > 0
        assert repetition["warm_up_runs"] >= 5
    memory = result["memory"]
    assert memory["peak_rss_bytes"] > memory["baseline_peak_rss_bytes"] > 10 << 20
    assert memory["peak_rss_bytes"] >= memory["pss_bytes"]
    if result["energy"] is None:
        assert "power" in result["absent"]["energy"] or "rapl" in result["absent"]["energy"]
    assert list((board.root / "tmp").iterdir()) == []


def test_both_formats_and_an_int8_file(board: VirtualBoard, tmp_path: Path) -> None:
    variants = []
    for name, model, contract in (
        ("onnx", models.onnx_matmul(), models.ONNX),
        ("tflite", models.tflite_dense(), models.TFLITE),
        ("int8", models.tflite_dense(int8=True), models.TFLITE_INT8),
    ):
        variants.append(board.variant(model, contract, models.probe_of(model, contract, tmp_path), id=name))
    results = measured(board, *variants, repetitions=1)
    assert [(result["id"], result["outcome"]) for result in results] == [
        ("onnx", "ok"),
        ("tflite", "ok"),
        ("int8", "ok"),
    ]
    assert results[2]["runtime"] == "ai_edge_litert"


def test_the_ceiling_on_runs_holds_over_all_repetitions(board: VirtualBoard, variant: dict[str, Any]) -> None:
    (result,) = measured(board, variant, min_runs=10, min_seconds=20.0, max_runs=100)
    assert [len(repetition["samples_ns"]) for repetition in result["repetitions"]] == [50, 50]


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_a_garbage_file_is_a_result(board: VirtualBoard, kind: str) -> None:
    contract = models.ONNX if kind == "onnx" else models.TFLITE
    garbage = board.variant(b"garbage " * 64, contract, models.probe(models.EXAMPLES, models.EXAMPLES))
    (result,) = measured(board, garbage)
    assert result["outcome"] == "unsupported"
    assert result["detail"]
    assert result["absent"] == {"memory": "not measured: unsupported", "energy": "not measured: unsupported"}


def test_a_file_that_looks_right_and_is_not_cannot_hurt_the_agent(board: VirtualBoard) -> None:
    """Whether the runtime refuses such a file or dies of it is the runtime's affair; either is a result."""
    model = bytearray(models.tflite_dense())
    model[40:400] = np.random.default_rng(3).integers(0, 256, 360, np.uint8).tobytes()
    (result,) = measured(
        board, board.variant(bytes(model), models.TFLITE, models.probe(models.EXAMPLES, models.EXAMPLES))
    )
    assert result["outcome"] in ("unsupported", "crashed")
    assert result["detail"]


def test_a_bad_variant_does_not_spoil_a_good_one(board: VirtualBoard, variant: dict[str, Any], tmp_path: Path) -> None:
    probe = models.probe(models.EXAMPLES, models.EXAMPLES)
    bad = board.variant(b"garbage " * 64, models.ONNX, probe, id="bad")
    petabyte = board.variant(models.onnx_petabyte(), models.ONNX, probe, id="petabyte")
    unknown = dict(variant, id="unknown", format="caffe")
    results = measured(board, bad, petabyte, unknown, variant)
    assert [result["outcome"] for result in results] == ["unsupported", "out_of_memory", "unsupported", "ok"]
    assert "no runtime is known for the format 'caffe'" in results[2]["detail"]


def test_other_outputs_than_the_hosts_are_a_mismatch(board: VirtualBoard, variant: dict[str, Any]) -> None:
    expected = models.EXAMPLES @ models.WEIGHTS
    shifted = expected + 0.1 * (expected.max() - expected.min())
    variant["probe"] = board.put(models.probe(models.EXAMPLES, shifted.astype(np.float32)))
    (result,) = measured(board, variant)
    assert result["outcome"] == "mismatch"
    assert result["max_output_error"] == pytest.approx(0.1, rel=0.01)
    assert result["repetitions"] == []


def test_nan_is_a_mismatch(board: VirtualBoard) -> None:
    contract = models.contract("onnx", [models.tensor("x", [None, 8])], [models.tensor("y", [None, 8])])
    probe = models.probe(models.EXAMPLES, models.EXAMPLES)
    (result,) = measured(board, board.variant(models.onnx_division(), contract, probe))
    assert (result["outcome"], result["max_output_error"]) == ("mismatch", None)
    assert "NaN" in result["detail"]


def test_an_absent_accelerator_is_unsupported(board: VirtualBoard, variant: dict[str, Any]) -> None:
    (result,) = measured(board, variant, accelerator="npu")
    assert result["outcome"] == "unsupported"
    assert "no accelerator 'npu' here, only cpu" in result["detail"]


def test_a_deadline_is_a_timeout(board: VirtualBoard, variant: dict[str, Any]) -> None:
    (result,) = measured(board, variant, child_timeout_s=1.0, **LONG)
    assert result["outcome"] == "timeout"
    assert result["detail"] == "in repetition 1: gave no answer within 1 s"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"artifact": "e" * 64}, f"the artifact {'e' * 64} is not on this board; push it first"),
        ({"format": "tflite"}, "variant variant-1 is called tflite and its contract says onnx"),
        ({"tolerance": "much"}, "operations[0].variants[0].tolerance must be a number"),
        ({"artifact": "../../etc/passwd"}, "operations[0].variants[0].artifact must be a SHA-256"),
    ],
)
def test_a_bad_operation_says_so_and_the_next_is_tried(
    board: VirtualBoard, variant: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    first, second = board.run(profile(dict(variant, **change)), {"op": "inventory", "objects": {}}, check=False)
    assert first["op"] == "profile"
    assert first["error"]["kind"] == "bad_job"
    assert first["error"]["message"].startswith(message)
    assert second["present"] == []


def test_corrupt_objects_and_contracts_are_named(board: VirtualBoard, variant: dict[str, Any]) -> None:
    unreadable = board.put(b"{]")
    (result,) = board.run(profile(dict(variant, contract=unreadable)))
    assert f"the contract {unreadable} cannot be read" in result["error"]["message"]
    (board.root / "objects" / "sha256" / variant["probe"]).write_bytes(b"rot")
    (result,) = board.run(profile(variant))
    assert f"the probe {variant['probe']} is corrupt" in result["error"]["message"]
    assert "push it again" in result["error"]["message"]


def test_two_variants_of_one_id_are_refused(board: VirtualBoard, variant: dict[str, Any]) -> None:
    (result,) = board.run(profile(variant, variant))
    assert result["error"] == {"kind": "bad_job", "message": "two variants of the operation have the same id"}


def test_a_locked_board_says_who_holds_it(board: VirtualBoard, variant: dict[str, Any]) -> None:
    with board_lock(str(board.root)):
        locked, free = board.run(profile(variant), {"op": "inventory", "objects": {}})
    assert locked["error"]["kind"] == "locked"
    assert "holds" in locked["error"]["message"]
    assert free["present"] == []


def test_a_root_that_cannot_be_written_is_an_io_error(board: VirtualBoard, variant: dict[str, Any]) -> None:
    (board.root / "lock").mkdir()
    (result,) = board.run(profile(variant))
    assert result["error"]["kind"] == "io"
    assert "lock" in result["error"]["message"]


def test_the_oldest_python_at_hand_runs_it(tmp_path: Path) -> None:
    board = VirtualBoard(tmp_path / "root", oldest_python())
    variant = board.variant(models.onnx_matmul(), models.ONNX, models.probe(models.EXAMPLES, models.EXAMPLES))
    content = b"object"
    (board.root / "tmp" / "upload").write_bytes(content)
    facts, admitted, inventory, profiled = board.run(
        {"op": "facts"},
        {"op": "admit", "objects": [{"temporary": "tmp/upload", "sha256": sha256(content), "size_bytes": 6}]},
        {"op": "inventory", "objects": {sha256(content): 6}},
        profile(variant),
    )
    version = subprocess.run(
        [board.python, "-c", "import platform; print(platform.python_version())"], capture_output=True, check=True
    )
    assert facts["facts"]["python"] == version.stdout.decode().strip()
    assert admitted["admitted"] == inventory["present"] == [sha256(content)]
    (result,) = profiled["variants"]
    if "onnxruntime" in facts["facts"]["runtimes"]:
        assert result["outcome"] == "mismatch"
    else:
        assert result["outcome"] == "unsupported"
        assert result["detail"].startswith("no runtime here can be imported: onnxruntime (No module named")


def test_the_package_itself_runs_as_a_module(board: VirtualBoard) -> None:
    board.write_job({"op": "inventory", "objects": {}})
    arguments = [str(board.job_path), str(board.report_path)]
    subprocess.run([sys.executable, "-m", "edgedeploy.on_device", *arguments], check=True, timeout=60)
    assert json.loads(board.report_path.read_text())["results"][0]["present"] == []


def packed(board: VirtualBoard, variant: dict[str, Any], container: bytes | None = None) -> dict[str, Any]:
    """The variant with its file packed, and the plain one gone from the board."""
    plain = board.root / "objects" / "sha256" / variant["artifact"]
    content = plain.read_bytes()
    plain.unlink()
    made = pack(content, Format.ONNX).content if container is None else container
    return variant | {"packed": {"sha256": board.put(made), "file_bytes": len(content)}}


def test_a_packed_file_is_rebuilt_for_the_job_alone(board: VirtualBoard, variant: dict[str, Any]) -> None:
    (result,) = measured(board, packed(board, variant))
    assert (result["outcome"], result["detail"], result["runtime"]) == ("ok", "", "onnxruntime")
    assert result["max_output_error"] <= 1e-6
    assert not (board.root / "objects" / "sha256" / variant["artifact"]).exists()
    assert list((board.root / "tmp").iterdir()) == []


def test_a_container_of_another_file_is_a_result(board: VirtualBoard, variant: dict[str, Any]) -> None:
    other = pack(bytes(len(models.onnx_matmul())), Format.ONNX).content
    (result,) = measured(board, packed(board, variant, other))
    assert result["outcome"] == "unsupported"
    assert result["detail"].startswith("the packed file cannot be rebuilt: its SHA-256 is ")
    assert list((board.root / "tmp").iterdir()) == []


def test_a_container_that_is_none_is_a_result(board: VirtualBoard, variant: dict[str, Any]) -> None:
    (result,) = measured(board, packed(board, variant, b"no container"))
    told = "the packed file cannot be rebuilt: it is no packed file of this version"
    assert (result["outcome"], result["detail"]) == ("unsupported", told)


def test_a_packed_file_that_is_not_there_asks_for_a_push(board: VirtualBoard, variant: dict[str, Any]) -> None:
    gone = packed(board, variant)
    (board.root / "objects" / "sha256" / gone["packed"]["sha256"]).unlink()
    (result,) = board.run(profile(gone))
    assert result["error"]["kind"] == "bad_job"
    assert f"the artifact {gone['packed']['sha256']} is not on this board; push it first" in result["error"]["message"]
