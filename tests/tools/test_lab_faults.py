"""A push to a board of the lab ends whole or not at all, with the right error, whatever happens to link and board."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from edgedeploy.board import PushResult, open_board, push
from edgedeploy.errors import BoardError, TransferError, TransportError
from edgedeploy.plan import load_fleet
from edgedeploy.profiling.judge import void_reason
from edgedeploy.records import Repetition, Snapshot
from tests.tools.test_lab_boards import eventually
from tools.lab import Lab, VirtualBoard

pytestmark = [pytest.mark.lab, pytest.mark.fault]

DEADLINE_S = 120.0
SIZE_BYTES = 6 << 20


@pytest.fixture
def pi4(lab: Lab) -> Iterator[VirtualBoard]:
    with lab.borrow("pi4") as board:
        board.run("/bin/rm", "-rf", "/home/pi/.edgedeploy")
        yield board


@pytest.fixture
def artifact(tmp_path: Path) -> dict[str, Path]:
    path = tmp_path / "artifact"
    path.write_bytes(os.urandom(SIZE_BYTES))
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path}


def push_to(lab: Lab, files: dict[str, Path], during: Callable[[], None] = lambda: None) -> PushResult:
    """Push to pi4 and call `during` once, when a quarter of the bytes went."""
    fleet = load_fleet(lab.folder)
    device = fleet.device("pi4")
    done: list[bool] = []

    def progress(sent: int, total: int) -> None:
        if sent > total / 4 and not done:
            done.append(True)
            during()

    with open_board(device, fleet.profile(device), lab.folder) as board:
        return push(board, files, progress=progress)


def objects(board: VirtualBoard) -> dict[str, str]:
    """The digests of the objects on the board, by their names."""
    said = board.run("/bin/sh", "-c", "sha256sum /home/pi/.edgedeploy/objects/sha256/* 2>/dev/null; true")
    return {line.split()[1].rpartition("/")[2]: line.split()[0] for line in said.splitlines()}


def files(board: VirtualBoard) -> list[str]:
    """Every file in edgedeploy's folder on the board, with its size."""
    said = board.run("/usr/bin/find", "/home/pi/.edgedeploy", "-type", "f", "-printf", "%P %s\\n")
    return sorted(said.splitlines())


@contextmanager
def within(limit_s: float = DEADLINE_S) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < limit_s


def arrives_whole(lab: Lab, board: VirtualBoard, files: dict[str, Path]) -> None:
    """The next push, to the mended board, brings everything."""
    push_to(lab, files)
    assert objects(board) == {sha256: sha256 for sha256 in files}


def test_link_cut_in_the_middle(lab: Lab, pi4: VirtualBoard, artifact: dict[str, Path]) -> None:
    """A cable pulled during a push is an error of the link in time, leaves no object, and the next push heals it."""
    pi4.shape(rate_mbit=20)
    with within(), pytest.raises(TransportError, match=r"^pi4: "):
        push_to(lab, artifact, pi4.cut)
    assert objects(pi4) == {}
    pi4.restore()
    arrives_whole(lab, pi4, artifact)


def test_link_that_flaps(lab: Lab, pi4: VirtualBoard, artifact: dict[str, Path]) -> None:
    """A link that goes and comes every second ends in a whole object or in an error of the link, never in a part."""
    pi4.shape(rate_mbit=20)
    over = threading.Event()

    def flap() -> None:
        while not over.wait(1.0):
            pi4.cut()
            over.wait(0.4)
            pi4.link.plug()

    flapping = threading.Thread(target=flap)
    try:
        with within(), suppress(TransportError):
            push_to(lab, artifact, flapping.start)
    finally:
        over.set()
        flapping.join()
    assert set(objects(pi4).items()) <= {(sha256, sha256) for sha256 in artifact}
    pi4.restore()
    arrives_whole(lab, pi4, artifact)


def test_link_that_is_slow_and_far(lab: Lab, pi4: VirtualBoard, artifact: dict[str, Path]) -> None:
    """A link of 20 Mbit/s with 50 ms each way and 1 % loss is slow and no error: the object arrives whole."""
    pi4.shape(delay_ms=50, loss=0.01, rate_mbit=20)
    with within():
        push_to(lab, artifact)
    pi4.restore()
    assert objects(pi4) == {sha256: sha256 for sha256 in artifact}


def test_reboot_in_the_middle(lab: Lab, pi4: VirtualBoard, artifact: dict[str, Path]) -> None:
    """A board that loses power during a push is an error of the link in time; the board then takes the next push."""
    pi4.shape(rate_mbit=20)
    with within(), pytest.raises(TransportError, match=r"^pi4: "):
        push_to(lab, artifact, pi4.stop)
    pi4.reboot()
    assert objects(pi4) == {}
    pi4.restore()
    arrives_whole(lab, pi4, artifact)


def test_disk_that_fills_up_in_the_middle(lab: Lab, pi4: VirtualBoard, artifact: dict[str, Path]) -> None:
    """A disk that others fill during a push is told, leaves no object, and is no obstacle once it is free again."""
    pi4.shape(rate_mbit=20)
    refusal = r"^pi4: copying to \S+ failed: the board gives no reason; its disk may be full\.$"
    with within(), pytest.raises(TransferError, match=refusal):
        push_to(lab, artifact, pi4.fill_disk)
    assert [file for file in files(pi4) if not file.startswith("agents/")] == []
    pi4.heal()
    arrives_whole(lab, pi4, artifact)


@pytest.mark.parametrize("fault", ["inodes", "read-only"])
def test_board_that_takes_no_file(lab: Lab, pi4: VirtualBoard, artifact: dict[str, Path], fault: str) -> None:
    """A board without inodes, or with a read-only file system, is told in one sentence before anything is sent."""
    push_to(lab, {})
    before = files(pi4)
    if fault == "inodes":
        pi4.fill_inodes()
        why = "No space left on device, for its inodes are used up; remove files there"
    else:
        pi4.set_read_only(True)
        why = "Read-only file system; mount it writable"
    told = rf"^pi4: cannot write to /home/pi/\.edgedeploy: {why}[^.]*, or set `root ="
    with within(), pytest.raises(BoardError, match=told):
        push_to(lab, artifact)
    assert files(pi4) == before == [], "not even the agent was sent"
    pi4.heal()
    arrives_whole(lab, pi4, artifact)


def test_throttling_voids_a_measurement(lab: Lab, pi4: VirtualBoard) -> None:
    """What the agent's own snapshot says on a throttled board makes a repetition void, with the reason."""
    fleet = load_fleet(lab.folder)
    kind = fleet.profile(fleet.device("pi4"))

    def state() -> Snapshot:
        with open_board(fleet.device("pi4"), kind, lab.folder) as board:
            board.run_job([{"op": "facts"}], timeout_s=DEADLINE_S)  # installs the agent
            agent = pi4.run("/bin/sh", "-c", "ls /home/pi/.edgedeploy/agents/*.pyz").strip()
            code = (
                "import sys, json; sys.path.insert(0, sys.argv[1]); from on_device.conditions import snapshot; "
                "print(json.dumps(snapshot()))"
            )
            raw = board.transport.run([board.python, "-c", code, agent], timeout_s=DEADLINE_S).stdout
        fields = json.loads(raw)
        governors, frequencies = fields.pop("governors"), fields.pop("frequencies_mhz")
        return Snapshot(governors=tuple(governors), frequencies_mhz=tuple(frequencies), **fields)

    calm = state()
    assert void_reason(Repetition(1, 1, 1, True, (1,), calm, calm), kind) is None
    pi4.throttle()
    assert eventually(lambda: "0x60006" in (pi4.live / "vcio/get_throttled").read_text(), 10)
    reason = void_reason(Repetition(1, 1, 1, True, (1,), calm, state()), kind)
    assert reason is not None
    assert "throttled" in reason
