"""The host's side over real links: push, sign, activate, look, go back, clear away, rotate keys."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgedeploy import deploy
from edgedeploy.board import Board, open_board
from edgedeploy.deploy import Activated, SigningKey, Wanted, settled
from edgedeploy.errors import BoardError, PlanError
from edgedeploy.records import BoardReleases, DeploySettings, Device, DeviceProfile
from tests.deploy.releasing import Built, run_of
from tests.servers import SERVER_KINDS, ssh_device
from tests.support.records import make_profile
from tools.loopback_ssh import LoopbackServer, loopback_ssh

QUICK = settled(DeploySettings(attempts=1, pause_s=0.0, steady_s=0.01))
KIND = make_profile(name="here", transports=("local", "ssh"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackServer]:
    with loopback_ssh(tmp_path_factory.mktemp("server"), kind=SERVER_KINDS[0]) as server:
        yield server


@pytest.fixture(params=["local", "ssh"])
def device(request: pytest.FixtureRequest, server: LoopbackServer, tmp_path: Path) -> Device:
    root = tmp_path / "the board" / "root"
    if request.param == "local":
        return Device("board", "here", "local:", root=str(root))
    return replace(ssh_device(server, root, python=sys.executable), name="board")


@pytest.fixture
def local(tmp_path: Path) -> Device:
    return Device("board", "here", "local:", root=str(tmp_path / "root"))


def wanted(built: Built, folder: Path, *, rehearsal: bool = False, **changes: Any) -> Wanted:
    run = changes.pop("run", run_of())
    files, settings = built.files(folder / "store"), replace(QUICK, **changes)
    return Wanted(built.variant, files, run, settings, rehearsal, {built.variant.id: 1e6})


@pytest.fixture(scope="session")
def begun(folder: Path, keys: dict[str, SigningKey], first: Built) -> Path:
    """The root of a board on which release 1 is active, the first variant."""
    root = folder / "begun"
    activate(Device("board", "here", "local:", root=str(root)), wanted(first, folder), keys["ours"])
    return root


@pytest.fixture
def running(local: Device, begun: Path) -> Device:
    """This machine as a board on which release 1 is active."""
    shutil.copytree(begun, local.root, symlinks=True)
    return local


@pytest.fixture
def anywhere(device: Device, begun: Path) -> Device:
    """A board, here or behind SSH, on which release 1 is active."""
    shutil.copytree(begun, device.root, symlinks=True)
    return device


def activate(device: Device, what: Wanted, key: SigningKey, **options: Any) -> Activated:
    with open_board(device, KIND, Path()) as board:
        return deploy.activate(board, device, what, key, **options)


def look(device: Device) -> BoardReleases:
    with open_board(device, KIND, Path()) as board:
        return deploy.look(board, device)


def test_the_whole_life_of_releases(
    device: Device, first: Built, second: Built, keys: dict[str, SigningKey], tmp_path: Path
) -> None:
    key = keys["ours"]
    done = activate(device, wanted(first, tmp_path), key)
    assert (done.number, done.already, done.enrolled, done.rolled_back) == (1, False, key.fingerprint, "")
    assert done.push is not None
    smaller = min(first.variant.packed, first.variant.artifact, key=lambda artifact: artifact.size_bytes)
    assert smaller.sha256 in done.push.sent
    assert done.p50_ms is not None
    seen = look(device)
    assert seen == replace(done.state, seen_at=seen.seen_at)
    assert seen.current is not None
    assert (seen.current.number, seen.current.variant_name, seen.current.key) == (1, "first", key.fingerprint)
    assert (seen.current.model_sha256, seen.current.drift) == (first.variant.artifact.sha256, ())
    assert (seen.previous, seen.trusted) == (None, key.fingerprint)

    again = activate(device, wanted(first, tmp_path), key)
    assert (again.number, again.already, again.push, again.enrolled) == (1, True, None, None)

    done = activate(device, wanted(second, tmp_path), key)
    assert done.state.previous is not None
    assert (done.number, done.state.previous.variant_name, done.enrolled) == (2, "first", None)
    assert "its latency was not measured here before, so that it was held against nothing" in done.notes

    with open_board(device, KIND, Path()) as board:
        back = deploy.back(board, device)
        assert back.state.current is not None
        assert (back.number, back.state.current.variant_name) == (1, "first")
        enrolled = deploy.rotate(board, device, key, keys["theirs"])
        assert enrolled.fingerprint == keys["theirs"].fingerprint
        strayed = deploy.look(board, device).current
        assert strayed is not None
        assert "which the board does not trust now" in strayed.drift[0]
        with pytest.raises(BoardError, match="trusts another key than `ours`"):
            deploy.activate(board, device, wanted(second, tmp_path), key)
        done = deploy.activate(board, device, wanted(second, tmp_path), keys["theirs"])
        assert done.number == 3
        gone = deploy.collect(board, device, dry_run=False, grace_s=0)
        assert gone.count == len(gone.removed)
    assert look(device).current == done.state.current


def test_what_was_measured_is_what_it_must_keep_to(
    running: Device, first: Built, second: Built, key: SigningKey, tmp_path: Path
) -> None:
    what = replace(wanted(second, tmp_path, run=run_of(1e6)), p50_ms={first.variant.id: 1e6, second.variant.id: 1e6})
    done = activate(running, replace(what, settings=replace(QUICK, max_slowdown=1000.0)), key)
    assert done.before_p50_ms is not None
    assert done.rolled_back == ""
    manifest = json.loads((Path(running.root) / "current" / "manifest.json").read_text())
    assert (manifest["probation"]["max_p50_ms"], manifest["probation"]["max_ratio"]) == (1e9, 1000.0)


@pytest.mark.fault
def test_a_release_that_is_rolled_back_is_told_with_its_reason(
    anywhere: Device, first: Built, second: Built, key: SigningKey, tmp_path: Path
) -> None:
    """Over any link, a release that fails its probation leaves the old one active and says why."""
    done = activate(anywhere, wanted(second, tmp_path, health=("false",), health_timeout_s=0.2), key)
    assert "release 2 was rolled back, release 1 is active again: the application was not healthy" in done.rolled_back
    assert (done.state.current and done.state.current.number, done.state.highest) == (1, 2)
    assert activate(anywhere, wanted(second, tmp_path), key).number == 3


def jobs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], float]]:
    """What boards are asked for from now on, and how long they may take for it."""
    asked: list[tuple[list[str], float]] = []
    real = Board.run_job

    def run_job(board: Board, operations: Any, *, timeout_s: float, **options: Any) -> Any:
        asked.append(([operation["op"] for operation in operations], timeout_s))
        return real(board, operations, timeout_s=timeout_s, **options)

    monkeypatch.setattr(Board, "run_job", run_job)
    return asked


def test_a_board_has_the_time_to_hash_what_its_releases_hold(
    running: Device, second: Built, key: SigningKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    activate(running, wanted(second, tmp_path), key)
    asked = jobs(monkeypatch)
    times = []
    for model_bytes in (0, 750_000_000):
        asked.clear()
        with open_board(running, KIND, Path()) as board:
            board.facts = replace(board.facts, release_bytes=board.facts.release_bytes + 2 * model_bytes)
            deploy.look(board, running)
            deploy.back(board, running)
            deploy.activate(board, running, wanted(second, tmp_path), key, afresh=True)
        times.append({tuple(operations): timeout_s for operations, timeout_s in asked})
    for operations in (("releases",), ("rollback", "releases"), ("deploy", "releases")):
        assert times[0][operations] >= 300
        assert times[1][operations] - times[0][operations] == pytest.approx(300, abs=1), "1.5 GB at 5 MB/s"


def test_enrolling_and_rotating_take_one_job_each_that_changes_the_board(
    local: Device, keys: dict[str, SigningKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = jobs(monkeypatch)
    with open_board(local, KIND, Path()) as board:
        enrolled = deploy.enrol(board, local, keys["ours"])
        rotated = deploy.rotate(board, local, keys["ours"], keys["theirs"])
    assert [operations for operations, _ in asked] == [["enrol", "releases"], ["releases"], ["rotate", "releases"]]
    assert (enrolled.state.trusted, rotated.state.trusted) == (keys["ours"].fingerprint, keys["theirs"].fingerprint)
    assert rotated.state == replace(look(local), seen_at=rotated.state.seen_at)


@pytest.mark.fault
def test_a_rehearsal_is_not_deployed(local: Device, first: Built, key: SigningKey, tmp_path: Path) -> None:
    """What was chosen on an emulated board goes to emulated boards alone."""
    with pytest.raises(BoardError, match=r"chosen in a rehearsal on an emulated board, and this board is none"):
        activate(local, wanted(first, tmp_path, rehearsal=True), key)
    assert look(local).current is None
    assert activate(replace(local, emulated=True), wanted(first, tmp_path, rehearsal=True), key).number == 1


@pytest.mark.fault
def test_a_board_that_trusts_another_key_is_a_hard_stop(
    running: Device, first: Built, keys: dict[str, SigningKey], tmp_path: Path
) -> None:
    """A changed key is never taken over in silence: it is rotated, or replaced by its fingerprint."""
    ours, theirs = keys["ours"], keys["theirs"]
    says = re.escape(f"trusts another key than `theirs` ({theirs.fingerprint}): {ours.fingerprint}")
    with pytest.raises(BoardError, match=says):
        activate(running, wanted(first, tmp_path), theirs, afresh=True)
    with open_board(running, KIND, Path()) as board:
        with pytest.raises(BoardError, match="rotate the key, or enrol the board"):
            deploy.enrol(board, running, theirs)
        with pytest.raises(BoardError, match="rotate the key, or enrol the board"):
            deploy.enrol(board, running, theirs, replaces=theirs.fingerprint)
        assert deploy.look(board, running).trusted == ours.fingerprint
        assert deploy.enrol(board, running, theirs, replaces=ours.fingerprint).known is True
    assert activate(running, wanted(first, tmp_path), theirs, afresh=True).number == 2


@pytest.mark.fault
def test_a_board_that_forgot_whom_it_trusts_is_not_trusted_on_first_use_again(
    local: Device, first: Built, key: SigningKey, tmp_path: Path
) -> None:
    """A board that was enrolled and trusts nobody now was changed by someone: that is the user's to judge."""
    known = activate(local, wanted(first, tmp_path), key).state
    (Path(local.root) / "trust" / "allowed_signers").unlink()
    with pytest.raises(BoardError, match=r"and trusts no key now; if it was set up anew, run `edgedeploy keys enrol"):
        activate(local, wanted(first, tmp_path), key, known=known, afresh=True)
    with open_board(local, KIND, Path()) as board:
        deploy.enrol(board, local, key)
    assert activate(local, wanted(first, tmp_path), key, known=known, afresh=True).number == 2


@pytest.mark.fault
def test_a_board_that_was_enrolled_as_another_one_is_refused(
    running: Device, first: Built, key: SigningKey, tmp_path: Path
) -> None:
    """A device that is renamed, or a card that moved to another board, is told and not guessed."""
    moved = replace(running, name="garage")
    with pytest.raises(BoardError, match=r"enrolled as device 'board' and fleet.toml says 'garage'"):
        activate(moved, wanted(first, tmp_path), key)
    with open_board(moved, KIND, Path()) as board:
        deploy.enrol(board, moved, key)
    assert activate(moved, wanted(first, tmp_path), key).number == 2


@pytest.mark.fault
def test_a_rotation_that_is_played_back_is_refused(
    local: Device, keys: dict[str, SigningKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signed rotation counts once: after a rotation back, it does not bring the other key in again."""
    ours, theirs = keys["ours"], keys["theirs"]
    asked: list[dict[str, Any]] = []
    with open_board(local, KIND, Path()) as board:
        deploy.enrol(board, local, ours)
        run_job = board.run_job

        def noting(operations: Any, **options: Any) -> Any:
            asked.extend(operations)
            return run_job(operations, **options)

        monkeypatch.setattr(board, "run_job", noting)
        deploy.rotate(board, local, ours, theirs)
        deploy.rotate(board, local, theirs, ours)
        played_back = next(operation for operation in asked if operation["op"] == "rotate")
        with pytest.raises(BoardError, match="one of before the last rotation"):
            board.result(run_job([played_back], timeout_s=60), 0)
        assert deploy.look(board, local).trusted == ours.fingerprint


@pytest.mark.fault
def test_garbage_collected_between_push_and_deploy_is_pushed_again(
    local: Device, first: Built, key: SigningKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection that races a push and takes what it sent costs a second push, no more."""
    collected: list[int] = []
    real = Board.run_job

    def racing(board: Board, operations: Any, **options: Any) -> Any:
        if operations[0]["op"] == "deploy" and not collected:
            collected.append(deploy.collect(board, local, dry_run=False, grace_s=0).count)
        return real(board, operations, **options)

    monkeypatch.setattr(Board, "run_job", racing)
    done = activate(local, wanted(first, tmp_path), key)
    assert collected[0] >= 3
    assert (done.number, done.rolled_back) == (1, "")
    assert look(local).current == done.state.current


class Lying:
    """A board whose report of its releases says something else."""

    def __init__(self, board: Board, **changes: Any) -> None:
        self._board, self._changes = board, changes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._board, name)

    def run_job(self, operations: Any, **options: Any) -> Any:
        report = self._board.run_job(operations, **options)
        report["results"][0]["current"].update(self._changes)
        return report


@pytest.mark.fault
def test_what_a_board_says_of_its_releases_is_believed_as_far_as_it_is_signed(
    running: Device, first: Built, key: SigningKey, tmp_path: Path
) -> None:
    """A manifest that nobody signed, escape codes and unreadable texts are shown as what they are."""
    with open_board(running, KIND, Path()) as board:
        true = board.result(board.run_job([{"op": "releases"}], timeout_s=60), 0)["current"]
        forged: Any = Lying(board, manifest=true["manifest"].replace('"first"', '"\\u001b[2Jother"'))
        seen = deploy.look(forged, running).current
        assert seen is not None
        assert (seen.key, seen.drift) == ("", ("manifest.json: its signature is wrong",))
        assert "\x1b" not in seen.variant_name
        garbled: Any = Lying(board, manifest="\x1b[2J", drift=["\x1b]0;x\x07\nmodel"])
        seen = deploy.look(garbled, running).current
        assert seen is not None
        assert seen.variant_id == ""
        assert all(line.isprintable() for line in seen.drift)


def test_profile_is_checked_before_anything(local: Device, first: Built, key: SigningKey, tmp_path: Path) -> None:
    other: DeviceProfile = replace(KIND, arch="aarch64")
    with pytest.raises(BoardError, match="its profile here is for aarch64"), open_board(local, other, Path()):
        pass


def test_settings_that_make_no_release_are_told_before_anything_is_sent(
    running: Device, second: Built, key: SigningKey, tmp_path: Path
) -> None:
    for more in ({"max_slowdown": 1e300}, {"reload": ("x" * 4096,) * 64}):
        with pytest.raises(PlanError, match=r"board: what \[deploy\] says makes no release that a board would take: "):
            activate(running, wanted(second, tmp_path, run=run_of(1e6), **more), key)
    assert look(running).highest == 1
