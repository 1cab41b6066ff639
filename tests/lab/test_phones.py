"""Several phones behind one adb server, of which some are dead: real adbds, one of them stopped in its tracks."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedeploy.errors import ConnectError
from edgedeploy.lab import run_over
from edgedeploy.records import Device
from edgedeploy.transport import open_transport
from tests.phones import a_phone
from tests.support.deadlines import soon
from tools.adbd import PORT, Phone

pytestmark = pytest.mark.fault

LIVING = ("one", "two", "three")


@pytest.fixture
def phones(monkeypatch: pytest.MonkeyPatch) -> Iterator[Phone]:
    """An adb server that three living phones and one that hangs are connected to."""
    with a_phone() as phone:
        monkeypatch.setenv("ADB_SERVER_SOCKET", phone.environment["ADB_SERVER_SOCKET"])
        for name in (*LIVING, "hung"):
            phone.start_adbd(name, port_of(name))
            phone.wait(serial_of(name))
        phone.hang_adbd("hung")
        yield phone


@pytest.fixture
def dialled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that names each phone that adb was told to connect to, as soon as adb has answered."""
    real, log, program = shutil.which("adb"), tmp_path / "dialled", tmp_path / "bin" / "adb"
    program.parent.mkdir()
    log.touch()
    program.write_text(f'#!/bin/sh\n{real} "$@"\ncode=$?\n[ "$1" = connect ] && echo "$2" >>{log}\nexit $code\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return log


def port_of(name: str) -> int:
    return {"hung": PORT + 1, "dead": 1}.get(name) or PORT + 2 + LIVING.index(name)


def serial_of(name: str) -> str:
    return f"127.0.0.1:{port_of(name)}"


def fleet(*names: str) -> list[Device]:
    return [Device(name, "pixel-8", f"adb://{serial_of(name)}") for name in names]


@pytest.mark.parametrize("workers", [1, 16])
@pytest.mark.parametrize("connected", [False, True], ids=["not-connected", "connected"])
def test_phones_that_do_not_answer_keep_no_other_waiting(
    phones: Phone, dialled: Path, tmp_path: Path, workers: int, connected: bool
) -> None:
    """While a phone hangs, on being dialled or on its first command, others are dialled and visited to their end."""
    for name in (*LIVING, *(() if connected else ("hung",))):
        phones.adb("disconnect", serial_of(name))
    done: list[str] = []
    answered: list[str] = []
    one_at_a_time = threading.Lock()

    def action(device: Device) -> str:
        with open_transport(device, tmp_path) as board:
            said = board.run(["echo", device.name], timeout_s=30).stdout.decode().strip()
        with one_at_a_time:
            done.append(device.name)
            if sorted(done) == sorted(LIVING):
                answered.extend(dialled.read_text().split())
                phones.wake_adbd("hung")
        return said

    hung, dead, *living = run_over(fleet("hung", "dead", *LIVING), action, workers=workers)
    assert [visited.value for visited in living] == [*LIVING]
    assert (hung.value, done[-1]) == ("hung", "hung"), "it was waited for, and is visited once it wakes"
    assert {*answered} == {serial_of(name) for name in ("dead", *LIVING)}, "dialled while the other's call was open"
    assert isinstance(dead.error, ConnectError)
    assert str(dead.error).startswith(f"dead: nobody answers adb at {serial_of('dead')} (")


@pytest.mark.parametrize("connected", [False, True], ids=["not-connected", "connected"])
def test_ctrl_c_ends_waiting_for_a_phone_that_hangs(phones: Phone, tmp_path: Path, connected: bool) -> None:
    """Ctrl-C while a phone is dialled, or asked for the first time, ends that visit too and is not put off by it."""
    if not connected:
        phones.adb("disconnect", serial_of("hung"))
    ended: list[str] = []

    def action(device: Device) -> None:
        threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            with open_transport(device, tmp_path) as board:
                board.run(["true"], timeout_s=60)
        finally:
            ended.append(device.name)

    with soon(15), pytest.raises(KeyboardInterrupt):
        run_over(fleet("hung"), action)
    assert ended == ["hung"]
