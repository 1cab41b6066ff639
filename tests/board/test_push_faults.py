"""Odd disks, odd names, odd shells and odd neighbours: a push ends whole or with the right error, and mends itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.board import open_board, push
from edgedeploy.errors import BoardError, PlanError
from edgedeploy.records import Device, DeviceProfile
from tests.board.test_push import artifact, objects, push_to, whole
from tests.servers import SERVER_KINDS, ssh_device
from tools.loopback_ssh import LoopbackServer, loopback_ssh

DISK_BYTES = 6 << 20


def push_to_small_disk(device: Device, artifacts: dict[str, Path], **more: Any) -> dict[str, Any]:
    """What came of a push to a disk of 6 MiB of its own, in a mount namespace that goes with the process."""
    order = {
        "device": asdict(device),
        "artifacts": {sha256: str(path) for sha256, path in artifacts.items()},
        "small_disk_at": device.root,
        "disk_bytes": DISK_BYTES,
        **more,
    }
    unshare = ["unshare", "--mount", *(["--map-root-user"] if os.getuid() else [])]
    # Containers and hardened kernels forbid it, and without one a full disk could only be this machine's own.
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this kernel lets this account have no mount namespace")
    argv = [*unshare, sys.executable, "-m", "tests.board.pusher", json.dumps(order)]
    done = subprocess.run(argv, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.fault
def test_disk_that_is_full_at_the_start(root: Path, tmp_path: Path) -> None:
    """A payload that does not fit is refused before a byte of it is sent."""
    artifacts = dict([artifact(tmp_path, 8 << 20)])
    came = push_to_small_disk(Device("board", "here", "local:", root=str(root)), artifacts)
    assert came["error"].startswith("BoardError: board: not enough space: 8.0 MiB are to be sent")
    assert (came["objects"], came["left"]) == ([], [])


@pytest.mark.fault
@pytest.mark.parametrize("sizes", [(3 << 20,), (100, 200, 3 << 20)])
def test_disk_that_fills_up_while_we_write(root: Path, tmp_path: Path, sizes: tuple[int, ...]) -> None:
    """Where another program takes the last byte meanwhile, nothing is left behind and the error says why."""
    artifacts = dict(artifact(tmp_path, size) for size in sizes)
    device = Device("board", "here", "local:", root=str(root))
    came = push_to_small_disk(device, artifacts, fill_disk=True, reserve_bytes=0)
    assert "TransferError: board: cannot write" in came["error"]
    assert "No space left on device" in came["error"]
    assert came["objects"] == []
    assert came["left"] == []


@pytest.mark.fault
@pytest.mark.parametrize("name", ["it's", 'quo"te', "-rf", "a b", "$HOME `id`", "*", "up/../here", "x" * 200])
def test_root_with_an_odd_name(server: LoopbackServer, profile: DeviceProfile, tmp_path: Path, name: str) -> None:
    """Quotes, dashes, blanks, patterns and `..` in the name of the board's folder are names and nothing else."""
    artifacts = dict(artifact(tmp_path, size) for size in (10, 300_000))
    root = tmp_path / "disk" / name
    (tmp_path / "disk" / "up").mkdir(parents=True)
    push_to(ssh_device(server, root), profile, artifacts)
    assert whole(root, artifacts)


@pytest.mark.fault
@pytest.mark.parametrize(("name", "error"), [("new\nline", PlanError), ("\x1b[2J", PlanError), ("x" * 300, BoardError)])
def test_root_with_an_impossible_name(
    server: LoopbackServer, profile: DeviceProfile, tmp_path: Path, name: str, error: type[Exception]
) -> None:
    """A folder whose name no board can have, or that would break lines, is refused in one printable sentence."""
    with (
        pytest.raises(error, match="root =") as caught,
        open_board(ssh_device(server, tmp_path / name), profile, Path()),
    ):
        pass
    assert str(caught.value).isprintable()
    assert not (tmp_path / "new").exists()


@pytest.mark.fault
@pytest.mark.parametrize("name", ["-n", "new\nline", 'quo"te', "é" * 120])
def test_local_file_with_an_odd_name(
    over_ssh: Device, profile: DeviceProfile, root: Path, tmp_path: Path, name: str
) -> None:
    """What a file is called on the host never travels."""
    sha256, path = artifact(tmp_path, 1000)
    path.rename(tmp_path / name)
    push_to(over_ssh, profile, {sha256: tmp_path / name})
    assert objects(root) == {sha256: sha256}


@pytest.mark.fault
def test_shell_that_greets_on_standard_output(
    profile: DeviceProfile, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login shell that writes to standard output before and after each command spoils neither probe nor report."""
    noisy = tmp_path / "noisy"
    noisy.write_text(
        '#!/bin/sh\nprintf "Welcome!\\nedgedeploy-report 1 2 3\\n\\377"\n/bin/sh "$@"\ncode=$?\necho Bye.\nexit $code\n'
    )
    noisy.chmod(0o755)
    monkeypatch.setenv("SHELL", str(noisy))
    artifacts = dict(artifact(tmp_path, size) for size in (10, 300_000))
    with loopback_ssh(tmp_path / "server", kind="asyncssh") as server:
        push_to(ssh_device(server, root), profile, artifacts)
    assert whole(root, artifacts)


@pytest.mark.fault
def test_server_with_a_banner_before_the_login(profile: DeviceProfile, root: Path, tmp_path: Path) -> None:
    """The banner that a server shows at the login is no answer to anything."""
    (tmp_path / "banner").write_text("edgedeploy-probe:machine=vax\n" * 100)
    artifacts = dict([artifact(tmp_path, 10)])
    settings = {"Banner": str(tmp_path / "banner")}
    with loopback_ssh(tmp_path / "server", kind=SERVER_KINDS[0], settings=settings) as server:
        push_to(ssh_device(server, root), profile, artifacts)
    assert whole(root, artifacts)


@pytest.mark.fault
def test_lock_of_a_dead_owner(device: Device, profile: DeviceProfile, root: Path, tmp_path: Path) -> None:
    """A lock file whose owner died holds nobody, though its process number lives on in it."""
    root.mkdir(parents=True)
    (root / "lock").write_text(json.dumps({"pid": 1, "started_unix_ns": time.time_ns()}))
    artifacts = dict([artifact(tmp_path, 10)])
    push_to(device, profile, artifacts)
    assert whole(root, artifacts)


@pytest.mark.fault
def test_leftovers_of_a_day_go_by_themselves(
    device: Device, profile: DeviceProfile, root: Path, tmp_path: Path
) -> None:
    """What cut links left on a board is removed after two days by whoever comes next, without being asked."""
    old, fresh = root / "tmp" / "0123-old", root / "tmp" / "0123-fresh"
    old.parent.mkdir(parents=True)
    for left in (old, fresh):
        left.write_bytes(b"x")
    os.utime(old, (time.time() - 3 * 86_400,) * 2)
    with open_board(device, profile, Path()):
        pass
    assert (old.exists(), fresh.exists()) == (False, True)


@pytest.mark.fault
def test_board_whose_root_becomes_read_only(
    over_ssh: Device, profile: DeviceProfile, root: Path, tmp_path: Path
) -> None:
    """A folder that is a file by the time of the upload is an error that names it, and leaves no object."""
    artifacts = dict([artifact(tmp_path, 300_000)])
    with open_board(over_ssh, profile, Path()) as board:
        board.run_job([{"op": "inventory", "objects": {}}], timeout_s=60)
        (root / "tmp").rmdir()
        (root / "tmp").write_bytes(b"")
        with pytest.raises(Exception, match="tmp/") as caught:
            push(board, artifacts)
    assert type(caught.value).__name__ in ("TransferError", "BoardError")
    assert objects(root) == {}
