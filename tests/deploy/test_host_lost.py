"""A host that dies at any step of a deploy leaves a board in the old state or the new, and a second run goes on."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgedeploy import deploy
from edgedeploy.board import Board, open_board
from edgedeploy.deploy import SigningKey
from edgedeploy.records import Device
from edgedeploy.transport.local import LocalTransport
from tests.deploy.releasing import Built, until_idle
from tests.deploy.test_activation import KIND, activate, anywhere, begun, device, local, look, running, server, wanted

__all__ = ["anywhere", "begun", "device", "local", "running", "server"]


def dying(work: Callable[[], Any]) -> None:
    """Do the work in a process of its own, which must be killed while it does it."""
    with warnings.catch_warnings():
        # Of the threads that libraries of other tests have started none is in the child, and it asks nothing of them.
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert os.WIFSIGNALED(status), "it was to be killed before it was done"
            assert os.WTERMSIG(status) == signal.SIGKILL
            return
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("it neither died nor ended")


def kill_after(step: str) -> None:
    """From now on this very process dies once a step is done: a job by its first operation, or the n-th file sent."""
    real_job, real_put, files = Board.run_job, LocalTransport.put, [0]

    def run_job(board: Board, operations: Any, **options: Any) -> Any:
        report = real_job(board, operations, **options)
        if operations[0]["op"] == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return report

    def put(transport: LocalTransport, source: Path, destination: str, **options: Any) -> None:
        real_put(transport, source, destination, **options)
        files[0] += 1
        if step == f"file {files[0]}":
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(Board, "run_job", run_job)  # noqa: B010 - what a type checker would not allow
    setattr(LocalTransport, "put", put)  # noqa: B010


def kill_once(mark: Path) -> None:
    """From now on this very process dies as soon as a file is there."""

    def watch() -> None:
        while not mark.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def settled_number(device: Device) -> int | None:
    """The active release once nobody is at work any more."""
    with open_board(device, KIND, Path()) as board:
        until_idle(board, 60)
    seen = look(device)
    assert seen.current is None or seen.current.drift == ()
    return None if seen.current is None else seen.current.number


STEPS = ["releases", "inventory", "file 1", "admit", "deploy"]


@pytest.mark.fault
@pytest.mark.timeout(120)
@pytest.mark.parametrize("step", STEPS)
def test_a_host_that_dies_between_two_steps(
    running: Device, second: Built, key: SigningKey, tmp_path: Path, step: str
) -> None:
    """Whatever was done last, the board has the old release or the new one, and the same deploy can be run again."""
    what = wanted(second, tmp_path)

    def work() -> None:
        kill_after(step)
        activate(running, what, key)

    dying(work)
    number = settled_number(running)
    assert number == (2 if step == "deploy" else 1)
    if step in ("file 1", "deploy"):
        again = activate(running, what, key)
        assert (again.number, again.already) == (2, number == 2)


@pytest.mark.fault
@pytest.mark.timeout(120)
def test_a_host_that_dies_while_the_board_activates(
    anywhere: Device, second: Built, key: SigningKey, tmp_path: Path
) -> None:
    """An activation does not hang on the link: the board proves the release by itself and keeps it."""
    mark, go = tmp_path / "reloading", tmp_path / "go"
    wait = f'touch "{mark}"; while ! test -e "{go}"; do sleep 0.05; done'
    what = wanted(second, tmp_path, reload=("sh", "-c", wait))

    def work() -> None:
        kill_once(mark)
        activate(anywhere, what, key)

    dying(work)
    go.touch()
    assert settled_number(anywhere) == 2


@pytest.mark.fault
@pytest.mark.timeout(120)
def test_a_host_that_dies_while_a_bad_release_is_on_probation(
    anywhere: Device, second: Built, key: SigningKey, tmp_path: Path
) -> None:
    """With nobody to report to, the board takes a release back that the application does not bear."""
    mark = tmp_path / "asked"
    what = wanted(second, tmp_path, health=("sh", "-c", f'touch "{mark}"; false'), health_timeout_s=1.5)

    def work() -> None:
        kill_once(mark)
        activate(anywhere, what, key)

    dying(work)
    assert settled_number(anywhere) == 1
    with open_board(anywhere, KIND, Path()) as board:
        assert deploy.look(board, anywhere).highest == 2
