"""A push that was cut off costs the next one only what had not arrived, and never leaves a wrong file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.board import PushResult, open_board, push
from edgedeploy.board.bundle import agent_bundle
from edgedeploy.errors import TransferError
from edgedeploy.records import Device, DeviceProfile
from tests.board.test_push import artifact, objects, push_to, whole
from tests.support.at_once import at_once

TOKEN = "0123456789abcdef"
SIZE = 5 << 20


@pytest.fixture
def one(tmp_path: Path) -> dict[str, Path]:
    return dict([artifact(tmp_path, SIZE)])


def left_behind(
    root: Path, artifacts: dict[str, Path], size: int, *, place: int = 0, spoilt: int | None = None
) -> Path:
    """Lay down what an interrupted push of the one artifact leaves; the byte at `spoilt` is wrong."""
    ((sha256, path),) = artifacts.items()
    content = bytearray(path.read_bytes()[place : place + size])
    if spoilt is not None:
        content[spoilt] ^= 1
    left = root / "tmp" / f"{TOKEN}-{sha256}@{place}"
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_bytes(content)
    return left


@pytest.mark.fault
@pytest.mark.parametrize("age_s", [0, 1000])
def test_interrupted_upload_is_gone_on_with(
    device: Device, profile: DeviceProfile, root: Path, one: dict[str, Path], age_s: int
) -> None:
    """Of a file of which a part had arrived, be it fresh or old, only the rest is sent."""
    left = left_behind(root, one, 3_000_001)
    os.utime(left, (left.stat().st_mtime - age_s,) * 2)
    result = push_to(device, profile, one)
    assert (result.bytes_sent, result.kept_bytes) == (SIZE - 3_000_001, 3_000_001)
    assert whole(root, one)


@pytest.mark.fault
def test_upload_interrupted_twice_is_gone_on_with(
    device: Device, profile: DeviceProfile, root: Path, one: dict[str, Path]
) -> None:
    """What a second push added before it was cut off too is not sent again either."""
    left_behind(root, one, 2_000_000)
    left_behind(root, one, 1_500_000, place=2_000_000)
    result = push_to(device, profile, one)
    assert (result.bytes_sent, result.kept_bytes) == (SIZE - 3_500_000, 3_500_000)
    assert whole(root, one)


@pytest.mark.fault
def test_upload_that_was_never_admitted_is_not_sent_again(
    device: Device, profile: DeviceProfile, root: Path, one: dict[str, Path]
) -> None:
    """A file that had arrived whole when the host died becomes an object without a byte of it being sent."""
    left_behind(root, one, SIZE)
    result = push_to(device, profile, one)
    assert (result.sent, result.bytes_sent, result.kept_bytes) == (tuple(one), 0, SIZE)
    assert whole(root, one)


@pytest.mark.fault
@pytest.mark.parametrize(("spoilt", "kept"), [(0, 0), (2_500_000, 2 << 20), (2_999_999, 2 << 20)])
def test_only_the_verified_beginning_is_kept(
    device: Device, profile: DeviceProfile, root: Path, one: dict[str, Path], spoilt: int, kept: int
) -> None:
    """Bytes that went wrong on the board, as after a loss of power, are sent again and not built upon."""
    left_behind(root, one, 3_000_000, spoilt=spoilt)
    result = push_to(device, profile, one)
    assert (result.bytes_sent, result.kept_bytes) == (SIZE - kept, kept)
    assert whole(root, one)


@pytest.mark.fault
@pytest.mark.parametrize("odd", ["link", "folder", "longer"])
def test_odd_leftovers_are_not_followed(
    device: Device, profile: DeviceProfile, root: Path, one: dict[str, Path], tmp_path: Path, odd: str
) -> None:
    """A leftover that is a link, a folder or longer than its object neither spoils the push nor is written through."""
    left = left_behind(root, one, SIZE)
    secret = tmp_path / "secret"
    secret.write_bytes(b"not to be touched")
    left.unlink()
    if odd == "link":
        left.symlink_to(secret)
        (root / "tmp" / f"{next(iter(one))}.part").symlink_to(secret)
    elif odd == "folder":
        left.mkdir()
    else:
        left.write_bytes(os.urandom(SIZE + 1))
    result = push_to(device, profile, one)
    assert (result.bytes_sent, result.kept_bytes) == (SIZE, 0)
    assert objects(root) == {sha256: sha256 for sha256 in one}
    assert secret.read_bytes() == b"not to be touched"


@pytest.mark.fault
def test_what_was_kept_and_goes_away_is_sent_whole(
    device: Device, profile: DeviceProfile, root: Path, one: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A beginning that vanishes between being found and being built upon costs a second transfer, not the push."""
    left_behind(root, one, 3_000_000)
    with open_board(device, profile, Path()) as board:
        real = board.transport.put

        def put(*given: Any, **limits: Any) -> None:
            (root / "tmp" / f"{next(iter(one))}.part").unlink(missing_ok=True)
            real(*given, **limits)

        monkeypatch.setattr(board.transport, "put", put)
        board.run_job([{"op": "inventory", "objects": {}}], timeout_s=60)  # the agent is put too
        push(board, one)
    assert whole(root, one)


@pytest.mark.fault
def test_file_that_changed_since_a_part_of_it_was_sent(
    device: Device, profile: DeviceProfile, root: Path, one: dict[str, Path]
) -> None:
    """A local file that is no longer what its digest says never becomes an object, and leaves nothing."""
    left_behind(root, one, 3_000_000)
    ((_, path),) = one.items()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(TransferError, match="1 of 1 files did not arrive whole"):
        push_to(device, profile, one)
    assert objects(root) == {}


@pytest.mark.fault
def test_ctrl_c_during_push_leaves_what_arrived_to_the_next(
    device: Device, profile: DeviceProfile, root: Path, one: dict[str, Path]
) -> None:
    """Ctrl-C in the middle of a transfer makes no object, and the next push goes on from there."""

    def interrupt(sent: int, total: int) -> None:
        if sent >= 2 << 20:
            raise KeyboardInterrupt

    with open_board(device, profile, Path()) as board, pytest.raises(KeyboardInterrupt):
        push(board, one, progress=interrupt)
    assert objects(root) == {}
    result = push_to(device, profile, one)
    assert result.bytes_sent + result.kept_bytes == SIZE
    assert result.kept_bytes > 100_000
    assert whole(root, one)


@pytest.mark.fault
def test_two_pushers_go_on_from_one_leftover(
    device: Device, profile: DeviceProfile, root: Path, one: dict[str, Path]
) -> None:
    """Two pushes at once that both found the same beginning end with one whole object and no error."""
    left_behind(root, one, 3_000_000)
    both, results = threading.Barrier(2), list[PushResult]()

    def pusher() -> None:
        with open_board(device, profile, Path()) as board:
            both.wait(30)
            results.append(push(board, one))

    at_once(pusher, pusher)
    assert len(results) == 2
    assert whole(root, one)


# What a push of three files that a board has never seen calls, after the probe.
CALLS = ("put bundle", "put file", "put agent", "install agent and admit")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("call", "when"),
    [*((call, "before") for call in range(len(CALLS))), (0, "amid"), (1, "amid"), (2, "amid"), (3, "after")],
    ids=lambda value: CALLS[value] if isinstance(value, int) else value,
)
def test_host_killed_at_any_step(
    over_ssh: Device, profile: DeviceProfile, root: Path, tmp_path: Path, call: int, when: str
) -> None:
    """SIGKILL of the host at any step leaves no object that was not checked, and a second push brings all home."""
    artifacts = dict(artifact(tmp_path, size) for size in (10, 1000, SIZE))
    order = {
        "device": asdict(over_ssh),
        "artifacts": {sha256: str(path) for sha256, path in artifacts.items()},
        "fatal_call": call,
        "when": when,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.board.pusher", json.dumps(order)], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert set(objects(root).items()) <= {(sha256, sha256) for sha256 in artifacts}
    assert len(objects(root)) == (3 if (call, when) == (3, "after") else 0)
    for agent in (root / "agents").iterdir():
        assert agent.read_bytes() == agent_bundle()[0]
    result = push_to(over_ssh, profile, artifacts)
    assert len(result.sent) + len(result.present) == 3
    if call >= CALLS.index("put agent") and when != "after":
        assert result.kept_bytes == SIZE
    assert objects(root) == {sha256: sha256 for sha256 in artifacts}


def test_small_files_travel_together(
    device: Device, profile: DeviceProfile, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = dict(artifact(tmp_path, size) for size in (0, 1, 70_000, 200_000, 1 << 20))
    puts: list[str] = []
    with open_board(device, profile, Path()) as board:
        board.run_job([{"op": "inventory", "objects": {}}], timeout_s=60)
        real = board.transport.put

        def put(source: Path, destination: str, **limits: Any) -> None:
            puts.append(destination)
            real(source, destination, **limits)

        monkeypatch.setattr(board.transport, "put", put)
        push(board, artifacts)
    assert len(puts) == 2
    assert whole(root, artifacts)
