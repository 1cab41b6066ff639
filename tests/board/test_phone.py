"""What is particular about a board that is a phone."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgedeploy.board import open_board, push
from edgedeploy.errors import BoardError, TransportError
from edgedeploy.records import Device, DeviceProfile
from tests.phones import a_phone
from tools.adbd import SERIAL, Phone


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
    """A push whose phone or adb server dies leaves no object that is not whole, and the next push completes it."""
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
