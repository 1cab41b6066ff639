"""What is particular about a board that is a phone."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from edgedeploy.board import open_board, push
from edgedeploy.errors import BoardError, TransportError
from edgedeploy.records import Device, DeviceProfile
from tests.on_device import models
from tests.on_device.virtual_board import VirtualBoard
from tests.on_device.virtual_board import profile as profiling
from tests.phones import a_phone
from tools.adbd import SERIAL, Phone

LONG = {"min_seconds": 60.0, "repetitions": 1}


@pytest.fixture
def own_phone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Phone]:
    """A phone that a test may break."""
    with a_phone() as phone:
        monkeypatch.setenv("ADB_SERVER_SOCKET", phone.environment["ADB_SERVER_SOCKET"])
        yield phone


def test_phone_without_python_says_so(over_adb: Device, profile: DeviceProfile) -> None:
    with (
        pytest.raises(BoardError, match=r"^phone: no Python: `/none/python3` is not there"),
        open_board(replace(over_adb, python="/none/python3"), profile, Path()),
    ):
        pass


def test_phone_of_another_kind_is_not_taken(over_adb: Device, profile: DeviceProfile) -> None:
    with (
        pytest.raises(BoardError, match=r"^phone: the board is a .* machine but its profile here is for riscv64"),
        open_board(over_adb, replace(profile, arch="riscv64"), Path()),
    ):
        pass


@pytest.mark.fault
@pytest.mark.parametrize("what", ["adbd", "server"])
def test_phone_unplugged_while_it_is_pushed_to(
    own_phone: Phone, profile: DeviceProfile, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """adbd or the adb server killed under a push leaves no object that is not whole; the next push completes it."""
    monkeypatch.setattr("edgedeploy.transport.adb.CHUNK_BYTES", 4096)
    device = Device("phone", "here", f"adb://{SERIAL}", root=str(root), python=sys.executable)
    artifacts = {}
    for _ in range(2):
        content = os.urandom(16 << 20)
        digest = hashlib.sha256(content).hexdigest()
        artifacts[digest] = tmp_path / digest[:8]
        artifacts[digest].write_bytes(content)
    killed = threading.Event()

    def kill(sent: int, total: int) -> None:
        if sent > total // 4 and not killed.is_set():
            killed.set()
            own_phone.kill_adbd() if what == "adbd" else own_phone.kill_server()

    with open_board(device, profile, Path()) as board, pytest.raises(TransportError, match=r"^phone: "):
        push(board, artifacts, progress=kill)
    assert killed.is_set()
    objects = root / "objects" / "sha256"
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in objects.iterdir())
    own_phone.start_adbd() if what == "adbd" else own_phone.start_server()
    own_phone.wait()
    monkeypatch.undo()
    monkeypatch.setenv("ADB_SERVER_SOCKET", own_phone.environment["ADB_SERVER_SOCKET"])
    with open_board(device, profile, Path()) as board:
        push(board, artifacts)
    assert {path.name for path in objects.iterdir()} == artifacts.keys()


@pytest.mark.fault
def test_adbd_killed_while_the_agent_measures(own_phone: Phone, profile: DeviceProfile, root: Path) -> None:
    """adbd killed under a measurement is an error of the link, and the agent and its worker end with the link."""
    lying = VirtualBoard(root)
    model = models.onnx_matmul()
    variant = lying.variant(model, models.ONNX, models.probe_of(model, models.ONNX, root))
    device = Device("phone", "here", f"adb://{SERIAL}", root=str(root), python=sys.executable)

    def kill() -> None:
        if wait_for(lambda: len(processes(root)) >= 2):
            own_phone.kill_adbd()

    with open_board(device, profile, Path()) as board:
        killing = threading.Thread(target=kill)
        killing.start()
        with pytest.raises(TransportError, match=r"^phone: the link was lost during"):
            board.run_job([profiling(variant, **LONG)], timeout_s=100)
        killing.join()
    assert wait_for(lambda: not processes(root)), "a measurement goes on for a host that has gone"


def processes(root: Path) -> list[int]:
    """The agent and its workers, wherever they run."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if process.pid != os.getpid() and any(part.startswith(f"{root}/agents/") for part in command):
            found.append(process.pid)
    return found


def wait_for(condition: Callable[[], bool], deadline_s: float = 30.0) -> bool:
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
