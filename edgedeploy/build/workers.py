"""Shares jobs among processes, so that cores are used, and a crash in native code costs one variant and no more."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Pipe, wait
from pathlib import Path
from typing import Any, Self

from edgedeploy.apart import command, environment
from edgedeploy.build.identity import Request
from edgedeploy.build.job import Failure, Ground, Job, Made
from edgedeploy.on_device.conditions import snapshot

# What a process takes that has torch and a converter loaded and a small net in hand: 0.9 GB resident at its peak,
# measured with litert-torch 0.10 on a CNN of 50,000 parameters; the rest is for larger nets.
_NEED_BYTES = 1_500_000_000

# Each of these libraries would otherwise start as many threads as there are cores, in every process.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")

_ENDS_BY_ITSELF = "look whether memory ran out; `--jobs 1` builds one at a time"

OnSay = Callable[[tuple[str, ...]], None]


def affordable() -> int:
    """How many processes the cores and the free memory of this machine allow, at least one."""
    free_bytes = snapshot()["free_memory_bytes"]
    by_memory = len(os.sched_getaffinity(0)) if free_bytes is None else int(free_bytes) // _NEED_BYTES
    return max(1, min(len(os.sched_getaffinity(0)), by_memory))


def in_processes(
    jobs: Sequence[Job], ground: Ground, workspace: Path, count: int, on_say: OnSay
) -> Iterator[Made | Failure]:
    """Do the jobs in `count` processes, and what each leads to; their files lie under `workspace`.

    `on_say` gets what each busy process is at, whenever that changes. A process that is killed or crashes fails
    the variant in hand, and its other variants are done by the next one; while it has none in hand, it fails
    all of the job. What a job raises is raised here. However this ends, no process of it is left.
    """
    waiting = deque(jobs)
    numbers = iter(range(1 << 30))
    with contextlib.ExitStack() as stack:
        workers: list[_Worker] = []
        while waiting or any(worker.job for worker in workers):
            wanted = min(count, len(waiting) + sum(1 for worker in workers if worker.job))
            workers += [stack.enter_context(_Worker(ground)) for _ in range(wanted - len(workers))]
            for worker in workers:
                if worker.job is None and waiting:
                    folder = workspace / f"job-{next(numbers)}"
                    folder.mkdir()
                    worker.give(_next_for(worker, waiting), folder)
            busy = {worker.link: worker for worker in workers if worker.job}
            for link in wait(list(busy)):
                worker = busy[link]  # type: ignore[index]
                job = worker.job
                assert job is not None
                kind, content = worker.hear()
                if kind == "outcome":
                    yield content
                elif kind == "error":
                    raise content
                elif kind == "done":
                    waiting.extend(() if worker.failed else job.then)
                    worker.job = None
                elif kind == "gone":
                    workers.remove(worker)
                    lost, left = worker.remains()
                    yield from (Failure(request.name, worker.fate()) for request in lost)
                    if left:
                        waiting.append(dataclasses.replace(job, requests=left))
                on_say(tuple(other.at for other in workers if other.job))


def _next_for(worker: _Worker, waiting: deque[Job]) -> Job:
    """A job of a format whose converter the process has loaded already, which takes seconds, else the first."""
    job = next((job for job in waiting if job.exports and job.format in worker.formats), waiting[0])
    waiting.remove(job)
    return job


class _Worker:
    """A process of `worker.py`, and the job it has in hand. A session of its own, so that Ctrl-C is ours alone."""

    def __init__(self, ground: Ground) -> None:
        self.link, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                command("edgedeploy.build.worker", str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a user's code prints must not come between the records of --json
                start_new_session=True,
                env=environment(**dict.fromkeys(_ONE_THREAD, "1")),
            )
        self.link.send(ground)
        self.job: Job | None = None
        self.at = ""
        self.formats: set[str] = set()
        self.failed = False
        self._open: list[Request] = []
        self._in_hand: Request | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.link.close()

    def give(self, job: Job, folder: Path) -> None:
        """Hand over a job; a process that is gone is noticed when it is heard."""
        self.job, self.failed, self._open, self._in_hand = job, False, list(job.requests), None
        if job.exports:
            self.formats.add(job.format)
        with contextlib.suppress(BrokenPipeError):
            self.link.send((job, folder))

    def hear(self) -> tuple[str, Any]:
        """The next message: "at", "outcome", "error", "done", or "gone" where the process is."""
        try:
            kind, content = self.link.recv()
        except (EOFError, ConnectionResetError):
            self._process.wait()
            return "gone", None
        if kind == "at":
            self.at, request_id = content
            self._in_hand = next((request for request in self._open if request.id == request_id), None)
        elif kind == "outcome":
            name = content.variant if isinstance(content, Failure) else content.request.name
            self.failed |= isinstance(content, Failure)
            self._open = [request for request in self._open if request.name != name]
            self._in_hand = None
        return kind, content

    def remains(self) -> tuple[tuple[Request, ...], tuple[Request, ...]]:
        """What fails with the process, and what another one can still do."""
        if self._in_hand is None:
            return tuple(self._open), ()
        return (self._in_hand,), tuple(request for request in self._open if request is not self._in_hand)

    def fate(self) -> str:
        """How the process ended, in one sentence."""
        code = self._process.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"the process that built it {how} ({self.at or 'while it started'}); {_ENDS_BY_ITSELF}"
