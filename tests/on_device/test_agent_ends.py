"""However an agent or its worker ends, nothing is left running, half-written or locked."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import Any

import psutil
import pytest

from tests.on_device.virtual_board import VirtualBoard, profile

LONG = {"min_seconds": 60.0, "repetitions": 1}


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


def test_a_worker_that_dies_is_a_crash(board: VirtualBoard, variant: dict[str, Any]) -> None:
    board.write_job(profile(variant, **LONG))
    with board.start() as agent:
        worker_of(agent).send_signal(signal.SIGSEGV)
        assert agent.wait(60) == 0
    (result,) = board.results()[0]["variants"]
    assert result["outcome"] == "crashed"
    assert "killed by SIGSEGV" in result["detail"]


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
    assert board.run(profile())[0]["variants"] == []
    assert list((board.root / "tmp").iterdir()) == []


def test_without_prctl_a_worker_ends_with_its_input() -> None:
    script = (
        "import os, sys, time; sys.modules['ctypes'] = None; from edgedeploy.on_device import worker; "
        "worker._die_with(os.getppid()); print('armed', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"armed\n"
        process.stdin.close()
        assert process.wait(10) == 1


def test_untethered_it_does_not_care_for_input(board: VirtualBoard) -> None:
    board.write_job({"op": "facts"})
    with board.start() as agent:
        assert agent.stdin is not None
        agent.stdin.close()
        assert agent.wait(60) == 0
    assert "onnxruntime" in board.results()[0]["facts"]["runtimes"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["job.json"],
        ["job.json", "report.json", "more"],
        ["job.json", "--reply"],
        ["job.json", "report.json", "--reply", "token"],
        ["--inline", "x", "job.json", "--reply", "token"],
        ["--tethered", "--reply", "token"],
        ["job.json", "report.json", "--unknown"],
        ["--recover"],
    ],
    ids=" ".join,
)
def test_a_command_that_cannot_be_understood_is_answered_with_the_usage(
    board: VirtualBoard, arguments: list[str]
) -> None:
    done = subprocess.run([board.python, board.agent, *arguments], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: agent (JOB | --inline PACKED_JOB) (REPORT | --reply TOKEN)")


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
