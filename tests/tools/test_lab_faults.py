"""A push to a board of the lab ends whole or not at all, with the right error, whatever happens to link and board."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from edgedeploy.board import PushResult, open_board, push
from edgedeploy.errors import BoardError, TransferError, TransportError
from edgedeploy.plan import load_fleet
from tests.support.deadlines import soon
from tests.support.flapping import flapping
from tools.lab import Lab, VirtualBoard

pytestmark = [pytest.mark.lab, pytest.mark.fault]

DEADLINE_S = 120.0
SIZE_BYTES = 6 << 20


HOMES = {"x86": "/home/edge", "pi4": "/home/pi"}


@pytest.fixture(params=HOMES)
def board(lab: Lab, request: pytest.FixtureRequest) -> Iterator[VirtualBoard]:
    """A board that nothing was pushed to: one that runs as fast as this machine, one that is emulated."""
    with lab.borrow(request.param) as board:
        board.run("/bin/rm", "-rf", root_of(board))
        board.disk.commit()
        yield board


def root_of(board: VirtualBoard) -> str:
    return f"{HOMES[board.name]}/.edgedeploy"


@pytest.fixture
def artifact(tmp_path: Path) -> dict[str, Path]:
    path = tmp_path / "artifact"
    path.write_bytes(os.urandom(SIZE_BYTES))
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path}


def push_to(
    lab: Lab, board: VirtualBoard, files: dict[str, Path], during: Callable[[], None] = lambda: None
) -> PushResult:
    """Push to the board and call `during` once, when a quarter of the bytes went."""
    fleet = load_fleet(lab.folder)
    device = fleet.device(board.name)
    done: list[bool] = []

    def progress(sent: int, total: int) -> None:
        if sent > total / 4 and not done:
            done.append(True)
            during()

    with open_board(device, fleet.profile(device), lab.folder) as opened:
        return push(opened, files, progress=progress)


def objects(board: VirtualBoard) -> dict[str, str]:
    """The digests of the objects on the board, by their names."""
    said = board.run("/bin/sh", "-c", f"sha256sum {root_of(board)}/objects/sha256/* 2>/dev/null; true")
    return {line.split()[1].rpartition("/")[2]: line.split()[0] for line in said.splitlines()}


def files(board: VirtualBoard) -> list[str]:
    """Every file in edgedeploy's folder on the board, with its size."""
    said = board.run("/usr/bin/find", root_of(board), "-type", "f", "-printf", "%P %s\\n")
    return sorted(said.splitlines())


def arrives_whole(lab: Lab, board: VirtualBoard, files: dict[str, Path]) -> None:
    """The next push, to the mended board, brings everything."""
    push_to(lab, board, files)
    assert objects(board) == {sha256: sha256 for sha256 in files}


@pytest.mark.parametrize("fault", ["link cut", "ssh server killed"])
def test_link_lost_in_the_middle(lab: Lab, board: VirtualBoard, artifact: dict[str, Path], fault: str) -> None:
    """A cable pulled, or a server that dies, during a push is told in time, leaves no object, and the next heals it."""
    board.shape(rate_mbit=20)
    with soon(DEADLINE_S), pytest.raises(TransportError, match=rf"^{board.name}: "):
        push_to(lab, board, artifact, board.cut if fault == "link cut" else board.kill_sshd)
    assert objects(board) == {}
    board.restore()
    board.wait()
    arrives_whole(lab, board, artifact)


def test_link_that_flaps(lab: Lab, board: VirtualBoard, artifact: dict[str, Path]) -> None:
    """A link that goes and comes every second ends in a whole object or in an error of the link, never in a part."""
    board.shape(rate_mbit=20)
    with soon(DEADLINE_S), flapping(board) as link, suppress(TransportError):
        push_to(lab, board, artifact, link.start)
    assert set(objects(board).items()) <= {(sha256, sha256) for sha256 in artifact}
    board.restore()
    arrives_whole(lab, board, artifact)


def test_link_that_is_slow_and_far(lab: Lab, board: VirtualBoard, artifact: dict[str, Path]) -> None:
    """A link of 20 Mbit/s with 50 ms each way and 1 % loss is slow and no error: the object arrives whole."""
    board.shape(delay_ms=50, loss=0.01, rate_mbit=20)
    with soon(DEADLINE_S):
        push_to(lab, board, artifact)
    board.restore()
    assert objects(board) == {sha256: sha256 for sha256 in artifact}


def test_reboot_in_the_middle(lab: Lab, board: VirtualBoard, artifact: dict[str, Path]) -> None:
    """A board that loses power during a push is an error of the link in time; the board then takes the next push."""
    board.shape(rate_mbit=20)
    with soon(DEADLINE_S), pytest.raises(TransportError, match=rf"^{board.name}: "):
        push_to(lab, board, artifact, board.stop)
    board.reboot()
    assert objects(board) == {}
    board.restore()
    arrives_whole(lab, board, artifact)


def test_disk_that_fills_up_in_the_middle(lab: Lab, board: VirtualBoard, artifact: dict[str, Path]) -> None:
    """A disk that others fill during a push is told, leaves no object, and is no obstacle once it is free again."""
    board.shape(rate_mbit=20)
    refusal = rf"^{board.name}: copying to \S+ failed: the board gives no reason; its disk may be full\.$"
    with soon(DEADLINE_S), pytest.raises(TransferError, match=refusal):
        push_to(lab, board, artifact, board.disk.fill)
    assert [file for file in files(board) if not file.startswith("agents/")] == []
    board.heal()
    arrives_whole(lab, board, artifact)


@pytest.mark.parametrize("fault", ["inodes", "read-only"])
def test_board_that_takes_no_file(lab: Lab, board: VirtualBoard, artifact: dict[str, Path], fault: str) -> None:
    """A board without inodes, or with a read-only file system, is told in one sentence before anything is sent."""
    push_to(lab, board, {})
    before = files(board)
    if fault == "inodes":
        board.disk.fill_inodes()
        why = "No space left on device, for its inodes are used up; remove files there"
    else:
        board.set_read_only(True)
        why = "Read-only file system; mount it writable"
    told = rf"^{board.name}: cannot write to {root_of(board)}: {why}[^.]*, or set `root ="
    with soon(DEADLINE_S), pytest.raises(BoardError, match=told):
        push_to(lab, board, artifact)
    assert files(board) == before == [], "not even the agent was sent"
    board.heal()
    arrives_whole(lab, board, artifact)


def test_power_cut_right_after_a_push(lab: Lab, board: VirtualBoard, artifact: dict[str, Path]) -> None:
    """What a push called delivered is whole on the board though its power is cut in the same moment."""
    push_to(lab, board, artifact)
    board.reboot()
    assert objects(board) == {sha256: sha256 for sha256 in artifact}
