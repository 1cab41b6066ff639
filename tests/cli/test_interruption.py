"""Ctrl-C at any moment: one sentence, exit code 130, nothing half-written, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.project import PLAN, write_project

pytestmark = pytest.mark.builds


def start(*argv: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgedeploy", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
        start_new_session=True,
        cwd=cwd,
    )


def interrupt_at(
    process: subprocess.Popen[str], step: str, delay_s: float = 0.0, by: signal.Signals = signal.SIGINT
) -> str:
    """Send Ctrl-C to the whole group, as a terminal does, once stderr has shown `step`; return stderr."""
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        if step in line:
            break
    else:
        raise AssertionError(f"{step!r} was never shown: {seen}")
    time.sleep(delay_s)
    os.killpg(process.pid, by)
    _, rest = process.communicate(timeout=60)
    return seen + rest


def assert_interrupted(process: subprocess.Popen[str], stderr: str) -> None:
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert stderr.strip().splitlines()[-1].startswith("edgedeploy: interrupted; ")


def test_during_a_build_time_and_again(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project")
    moments = (("load dense", 0.0), ("export dense-onnx-fp32", 0.3), ("export dense-onnx-int8-u8s8", 0.2))
    for step, delay_s in moments:
        process = start("build", "--project", str(folder))
        stderr = interrupt_at(process, step, delay_s)
        assert_interrupted(process, stderr)
        assert not (folder / ".edgedeploy" / "tmp").exists()
    done = subprocess.run(
        [sys.executable, "-m", "edgedeploy", "build", "--json", "--project", str(folder)],
        stdout=subprocess.PIPE,
        check=True,
    )
    assert len(json.loads(done.stdout)["variants"]) == 2


def test_during_a_build_in_two_processes_none_is_left(tmp_path: Path) -> None:
    tuned = '[[recipe]]\nname = "tuned"\npasses = [{ kind = "fine-tune", epochs = 1 }]\n'
    tuned += 'formats = ["onnx"]\nprecisions = ["fp32"]\n'
    folder = write_project(tmp_path / "project", plan=PLAN + tuned)
    moments = (("export dense-onnx-fp32", signal.SIGINT), ("convert dense to onnx", signal.SIGKILL))
    for step, by in moments:
        process = start("build", "--jobs", "2", "--project", str(folder), cwd=folder)
        stderr = interrupt_at(process, step, by=by)
        deadline = time.monotonic() + 10
        while (left := processes_in(folder)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left, "a process still builds for nobody"
        if by is signal.SIGINT:
            assert_interrupted(process, stderr)
            assert not (folder / ".edgedeploy" / "tmp").exists()
        else:
            assert process.returncode == -signal.SIGKILL
    done = subprocess.run(
        [sys.executable, "-m", "edgedeploy", "build", "--json", "--jobs", "1", "--project", str(folder)],
        stdout=subprocess.PIPE,
        check=True,
    )
    assert len(json.loads(done.stdout)["variants"]) == 3


def processes_in(folder: Path) -> list[str]:
    """Processes that work in this folder, which they inherit from whoever starts them."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if path.joinpath("cwd").readlink() == folder:
                found.append(path.joinpath("cmdline").read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return found


def test_during_a_measurement_the_agent_goes_too(built: Path) -> None:
    process = start("profile", "--mode", "smoke", "--project", str(built))
    stderr = interrupt_at(process, "profile 2 variants on here", 4.0)
    assert_interrupted(process, stderr)
    board = built / "board"
    deadline = time.monotonic() + 10
    while (left := agents_of(board)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, "an agent still measures for nobody"
    assert not [path.name for path in (board / "tmp").iterdir() if not path.name.startswith("job-")]
    # The lock went with the agent, and what is on the board is whole.
    again = start("push", "--json", "--project", str(built))
    stdout, _ = again.communicate(timeout=60)
    assert again.returncode == 0
    assert json.loads(stdout)[0]["sent"] == []


def agents_of(board: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(board) in words:
            found.append(words.replace("\0", " "))
    return found
