"""A board of the lab keeps its release or gets the new one, whatever happens to link, power and disk meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgedeploy import deploy
from edgedeploy.board import Board, open_board
from edgedeploy.board.provision import provision
from edgedeploy.deploy import Activated, SigningKey, Wanted
from edgedeploy.errors import BoardError, EdgeDeployError, TransportError
from edgedeploy.plan import load_fleet
from edgedeploy.records import BoardReleases, Device, DeviceProfile
from tests.deploy.releasing import Built, until_idle
from tests.deploy.test_activation import wanted
from tests.support.flapping import flapping

if TYPE_CHECKING:
    from tools.lab import Lab, VirtualBoard

pytestmark = [pytest.mark.lab, pytest.mark.fault, pytest.mark.timeout(600)]

NAME = "x86"  # which is not emulated: what is proven here is no matter of the processor
BEGUN, ROOT = "/var/tmp/begun", "/var/tmp/releasing"
MARK, GO = f"{ROOT}/reloading", f"{ROOT}/go"
DEADLINE_S = 120.0


@dataclass(frozen=True)
class Aboard:
    """A borrowed board on which release 1 is active."""

    board: VirtualBoard
    device: Device
    kind: DeviceProfile
    base: Path

    def activate(self, what: Wanted, key: SigningKey) -> Activated:
        with self.opened() as board:
            return deploy.activate(board, self.device, what, key)

    def look(self) -> BoardReleases:
        with self.opened() as board:
            return deploy.look(board, self.device)

    @contextmanager
    def opened(self) -> Iterator[Board]:
        with open_board(self.device, self.kind, self.base) as board:
            yield board

    def has(self, path: str) -> bool:
        return bool(self.board.run("/bin/sh", "-c", f"ls {path} 2>/dev/null || true").strip())

    def active(self) -> int:
        """The active release, whole, once nobody is at work on the board any more."""
        with self.opened() as board:
            until_idle(board, DEADLINE_S)
        seen = self.look()
        assert seen.current is not None
        assert seen.current.drift == ()
        return seen.current.number


@pytest.fixture(scope="module")
def begun(lab: Lab, first: Built, keys: dict[str, SigningKey], folder: Path) -> Aboard:
    """The board with a runtime and a first release in a folder that the tests copy."""
    fleet = load_fleet(lab.folder)
    device = replace(fleet.device(NAME), root=BEGUN)
    with lab.borrow(NAME) as board:
        board.run("/bin/rm", "-rf", BEGUN)
        aboard = Aboard(board, device, fleet.profile(device), lab.folder)
        provision(device, aboard.kind, lab.folder, runtimes=["onnxruntime"])
        aboard.activate(wanted(first, folder), keys["ours"])
    return aboard


@pytest.fixture
def aboard(lab: Lab, begun: Aboard) -> Iterator[Aboard]:
    with lab.borrow(NAME) as board:
        board.run("/bin/rm", "-rf", ROOT)
        board.run("/bin/cp", "-a", BEGUN, ROOT)
        board.disk.commit()
        try:
            yield replace(begun, board=board, device=replace(begun.device, root=ROOT))
        finally:
            board.heal()
            board.run("/bin/rm", "-rf", ROOT)


def when_reloading(aboard: Aboard, what: Callable[[], None]) -> threading.Thread:
    """Do it as soon as the board has told the application to reload, and let the application go on after."""

    def watch() -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not aboard.has(MARK) and time.monotonic() < deadline:
            time.sleep(0.05)  # a board tells nobody how far it is: it must be asked again
        what()
        aboard.board.run("/usr/bin/touch", GO)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def slow(second: Built, folder: Path) -> Wanted:
    """A release whose application takes until it is let go."""
    wait = f"touch {MARK}; while ! test -e {GO}; do sleep 0.05; done"
    return wanted(second, folder, reload=("sh", "-c", wait))


@pytest.mark.parametrize("fault", ["link cut", "ssh server killed"])
def test_a_link_that_is_lost_in_the_midst_of_activating(
    aboard: Aboard, second: Built, key: SigningKey, tmp_path: Path, fault: str
) -> None:
    """A board that can no longer report proves the release by itself and keeps it; the host is told of the link."""
    lose = aboard.board.cut if fault == "link cut" else aboard.board.kill_sshd
    watching = when_reloading(aboard, lose)
    with pytest.raises(TransportError, match=rf"^{NAME}: "):
        aboard.activate(slow(second, tmp_path), key)
    watching.join()
    aboard.board.heal()
    assert aboard.active() == 2


def test_power_cut_right_after_activating(aboard: Aboard, second: Built, key: SigningKey, tmp_path: Path) -> None:
    """A release that was called active is active though the board's power is cut in the same moment."""
    assert aboard.activate(wanted(second, tmp_path), key).number == 2
    aboard.board.reboot()
    assert aboard.active() == 2


def test_power_lost_in_the_midst_of_activating(aboard: Aboard, second: Built, key: SigningKey, tmp_path: Path) -> None:
    """A board switched off while its application reloads has the old release after, and the next deploy succeeds."""
    watching = when_reloading(aboard, aboard.board.reboot)
    with pytest.raises(TransportError, match=rf"^{NAME}: "):
        aboard.activate(slow(second, tmp_path), key)
    watching.join()
    assert aboard.active() == 1
    assert aboard.activate(wanted(second, tmp_path), key).number == 3


def test_a_disk_that_fills_up_in_the_midst_of_activating(
    aboard: Aboard, second: Built, key: SigningKey, tmp_path: Path
) -> None:
    """A disk that others fill on probation leaves one whole release active, and is no obstacle once it is free."""
    watching = when_reloading(aboard, aboard.board.disk.fill)
    with suppress(BoardError):
        aboard.activate(slow(second, tmp_path), key)
    watching.join()
    aboard.board.heal()
    assert aboard.active() in (1, 2)
    assert aboard.activate(wanted(second, tmp_path), key).state.current is not None
    assert aboard.active() > 1


@pytest.mark.parametrize("fault", ["disk full", "no inodes", "read-only"])
def test_a_disk_that_takes_no_manifest(
    aboard: Aboard, second: Built, key: SigningKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """A board that has the files and no room for the manifest says so, keeps the old release, and takes it later."""
    board = aboard.board
    real = Board.run_job

    def run_job(opened: Board, operations: Any, **options: Any) -> Any:
        if operations[0]["op"] == "deploy":
            if fault == "read-only":
                board.set_read_only(True)
            else:
                board.disk.fill() if fault == "disk full" else board.disk.fill_inodes()
        return real(opened, operations, **options)

    monkeypatch.setattr(Board, "run_job", run_job)
    with pytest.raises(EdgeDeployError, match=rf"^{NAME}: "):
        aboard.activate(wanted(second, tmp_path), key)
    monkeypatch.undo()
    board.heal()
    assert aboard.active() == 1
    aboard.activate(wanted(second, tmp_path), key)
    assert aboard.active() > 1


def test_a_link_that_flaps_all_the_while(aboard: Aboard, second: Built, key: SigningKey, tmp_path: Path) -> None:
    """A link that goes and comes every second ends in one whole release and in no error but one of the link."""
    with flapping(aboard.board) as link, suppress(TransportError):
        link.start()
        aboard.activate(wanted(second, tmp_path), key)
    aboard.board.restore()
    assert aboard.active() in (1, 2)
    aboard.activate(wanted(second, tmp_path), key)
    assert aboard.active() > 1
