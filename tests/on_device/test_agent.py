"""The real agent, packed as a board gets it, in a process of its own: what it measures and how it fails."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from edgedeploy.on_device.lock import board_lock
from tests.on_device import models
from tests.on_device.virtual_board import VirtualBoard, oldest_python, profile, sha256

LONG = {"min_seconds": 60.0, "repetitions": 1}


@pytest.fixture
def board(tmp_path: Path) -> VirtualBoard:
    return VirtualBoard(tmp_path / "root")


@pytest.fixture
def variant(board: VirtualBoard, tmp_path: Path) -> dict[str, Any]:
    model = models.onnx_matmul()
    return board.variant(model, models.ONNX, models.probe_of(model, models.ONNX, tmp_path))


def measured(board: VirtualBoard, *variants: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    (result,) = board.run(profile(*variants, **more))
    found: list[dict[str, Any]] = result["variants"]
    return found


def worker_of(agent: subprocess.Popen[bytes], deadline_s: float = 30.0) -> psutil.Process:
    """Wait until the agent has a worker that has run for a moment."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        for child in psutil.Process(agent.pid).children():
            if time.time() - child.create_time() > 0.3:
                return child
        time.sleep(0.02)
    raise AssertionError("the agent has started no worker")


def gone(process: psutil.Process, deadline_s: float = 10.0) -> bool:
    try:
        process.wait(deadline_s)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


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
    (result,) = measured(board, variant, child_timeout_s=4.0, **LONG)
    assert result["outcome"] == "timeout"
    assert result["detail"] == "in repetition 1: gave no answer within 4 s"


def test_a_worker_that_dies_is_a_crash(board: VirtualBoard, variant: dict[str, Any]) -> None:
    board.write_job(profile(variant, **LONG))
    with board.start() as agent:
        worker_of(agent).send_signal(signal.SIGSEGV)
        assert agent.wait(60) == 0
    (result,) = board.results()[0]["variants"]
    assert result["outcome"] == "crashed"
    assert "killed by SIGSEGV" in result["detail"]


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "codec can't decode"),
        (b"[]", "job must be an object"),
        (b'{"schema": 99, "root": "/x", "operations": [{}]}', "job.schema must be 1"),
    ],
)
def test_a_job_that_cannot_be_read_leaves_no_report(board: VirtualBoard, content: bytes, message: str) -> None:
    board.job_path.write_bytes(content)
    with board.start() as agent:
        _, stderr = agent.communicate(timeout=30)
    assert agent.returncode == 2
    assert message in stderr.decode()
    assert len(stderr.decode().splitlines()) == 1
    assert not board.report_path.exists()


def test_a_report_that_cannot_be_written_is_said(board: VirtualBoard) -> None:
    board.write_job({"op": "inventory", "objects": {}})
    board.report_path = board.root / "no" / "such" / "folder" / "report.json"
    with board.start() as agent:
        _, stderr = agent.communicate(timeout=30)
    assert agent.returncode == 1
    assert "the report cannot be written" in stderr.decode()


@pytest.mark.parametrize("end", ["stdin", "SIGTERM", "SIGINT", "SIGHUP", "SIGKILL"])
def test_an_agent_that_ends_takes_its_worker_with_it(board: VirtualBoard, variant: dict[str, Any], end: str) -> None:
    board.write_job(profile(variant, **LONG))
    with board.start("--tethered") as agent:
        worker = worker_of(agent)
        assert agent.stdin is not None
        if end == "stdin":
            agent.stdin.close()
        else:
            agent.send_signal(signal.Signals[end])
        status = agent.wait(10)
    expected = {"stdin": 143, "SIGTERM": 143, "SIGINT": 130, "SIGHUP": 129, "SIGKILL": -9}
    assert status == expected[end]
    assert gone(worker)
    assert not board.report_path.exists()
    assert [path.name for path in board.root.iterdir() if ".part" in path.name] == []
    # The lock is free, and whatever a killed agent left in tmp goes with the next job.
    assert measured(board) == []
    assert list((board.root / "tmp").iterdir()) == []


def test_untethered_it_does_not_care_for_input(board: VirtualBoard) -> None:
    board.write_job({"op": "facts"})
    with board.start() as agent:
        assert agent.stdin is not None
        agent.stdin.close()
        assert agent.wait(60) == 0
    assert "onnxruntime" in board.results()[0]["facts"]["runtimes"]


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


def test_too_old_a_python_is_told_so(board: VirtualBoard) -> None:
    """The entry point is plain enough for any Python; what it would say is checked by asking for less."""
    import zipfile

    with zipfile.ZipFile(board.agent) as archive:
        entry = archive.read("__main__.py").decode()
    start = entry.replace("(3, 7)", "(99, 0)")
    assert start != entry
    done = subprocess.run([sys.executable, "-c", start], capture_output=True)
    assert done.returncode == 1
    assert b"needs Python 3.7 or later, this is 3." in done.stderr


def test_the_package_itself_runs_as_a_module(board: VirtualBoard) -> None:
    board.write_job({"op": "inventory", "objects": {}})
    arguments = [str(board.job_path), str(board.report_path)]
    subprocess.run([sys.executable, "-m", "edgedeploy.on_device", *arguments], check=True, timeout=60)
    assert json.loads(board.report_path.read_text())["results"][0]["present"] == []
