"""Start a worker, wait for it without disturbing it, and say what became of it."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from array import array
from typing import Any

from .documents import read_json, write_json
from .fields import read_text
from .interpreter import bundle_in_use, environment, interpreter
from .stopping import running

_MAX_ANSWER_BYTES = 64 << 20
_PACKAGE = __name__.rpartition(".")[0]  # Python 3.7 sets no __package__ yet while a module from a zip loads
_START = (
    "import importlib, sys; sys.path[0] = sys.argv[1]; "
    "sys.exit(importlib.import_module(sys.argv[2]).main(sys.argv[3:]))"
)


class Children:
    """Runs workers one after another inside `workspace`, a folder of this job alone.

    They find what is in `bundle`, by default the provisioned runtime that the job is to use.
    """

    def __init__(self, workspace: str, bundle: str | None = None) -> None:
        self._workspace = os.path.abspath(workspace)
        self._bundle = bundle or bundle_in_use()
        self._number = 0

    def path(self, name: str) -> str:
        """Return where a file of this name lies, or would, for as long as the job lasts."""
        return os.path.join(self._workspace, name)

    def run(self, task: str, specification: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Return the worker's answer; where it gave none, only `outcome` and `detail`. Raises OSError."""
        self._number += 1
        stem = os.path.join(self._workspace, str(self._number))
        specification_path, answer_path = stem + ".json", stem + ".answer.json"
        write_json(specification_path, dict(specification, task=task))
        arguments = [specification_path, answer_path, str(os.getpid())]
        oom_kills = count_oom_kills(read_text("/", "proc/vmstat") or "")
        status = self._wait([*command("worker", self._bundle), *arguments], stem + ".stderr", timeout_s)
        if status is None:
            return {"outcome": "timeout", "detail": f"gave no answer within {timeout_s:g} s"}
        if status == 0:
            answer: dict[str, Any] = read_json(answer_path, _MAX_ANSWER_BYTES)
            if "samples_ns" in answer:
                answer["samples_ns"] = array("q", answer["samples_ns"])  # a fifth of a list's memory
            return answer
        now = count_oom_kills(read_text("/", "proc/vmstat") or "")
        outcome, detail = judge_end(status, _tail(stem + ".stderr"), now > oom_kills)
        return {"outcome": outcome, "detail": detail}

    def _wait(self, argv: list[str], stderr_path: str, timeout_s: float) -> int | None:
        """Return the exit status (negative: the signal), None after the deadline; the child's group is gone then.

        The child alone holds the writing end of a pipe, so that its end wakes us and nothing needs polling while
        it measures.
        """
        deadline = time.monotonic() + timeout_s
        reader, writer = os.pipe()
        try:
            with open(stderr_path, "wb") as stderr, running(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                cwd=self._workspace,
                env=environment(self._bundle),
                pass_fds=(writer,),
            ) as process:
                theirs, writer = writer, -1
                os.close(theirs)
                select.select([reader], [], [], timeout_s)
                try:
                    return process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    return None
        finally:
            os.close(reader)
            if writer >= 0:
                os.close(writer)


def command(module: str, bundle: str | None = None) -> list[str]:
    """Return the argv that runs `main` of one of our modules, from a zip or from a folder.

    It starts the Python of `bundle` where that brings one, else this one.
    """
    location = os.path.dirname(os.path.abspath(__file__))
    for _ in _PACKAGE.split("."):
        location = os.path.dirname(location)
    return [*interpreter(bundle), "-c", _START, location, f"{_PACKAGE}.{module}"]


def judge_end(status: int, stderr: str, kernel_killed_for_memory: bool) -> tuple[str, str]:
    """Return outcome and detail of a worker that ended without an answer."""
    lines = stderr.strip().splitlines()
    last = lines[-1].strip()[:300] if lines else ""
    if status == -signal.SIGKILL and kernel_killed_for_memory:
        return "out_of_memory", "the kernel killed the process for want of memory"
    if "bad_alloc" in stderr or last.startswith("MemoryError"):
        return "out_of_memory", last
    if status < 0:
        try:
            end = f"killed by {signal.Signals(-status).name}"
        except ValueError:
            end = f"killed by signal {-status}"
    else:
        end = f"exit code {status}"
    return "crashed", f"{end}: {last}" if last else end


def count_oom_kills(vmstat: str) -> int:
    """Return how often the kernel has killed for want of memory, in control groups too; 0 where it does not count."""
    match = re.search(r"^oom_kill (\d+)$", vmstat, re.MULTILINE)
    return int(match.group(1)) if match else 0


def _tail(path: str) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 4096))
        return file.read().decode("utf-8", "replace")
