from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.board import PushResult, lying, open_board, push
from edgedeploy.board.session import Board
from edgedeploy.errors import BoardError, ConnectError, EdgeDeployError, TransferError, TransportError
from edgedeploy.records import Device, DeviceProfile
from edgedeploy.transport.address import Address
from edgedeploy.transport.ssh import SshTransport
from tests.servers import QUICK, Cable, client_config
from tests.support.at_once import at_once
from tests.support.records import make_variant
from tools.loopback_ssh import LoopbackServer


@pytest.fixture
def artifacts(tmp_path: Path) -> dict[str, Path]:
    """Three files, one of them empty and one longer than what fits into a socket's buffers."""
    return dict(artifact(tmp_path, size) for size in (0, 1000, 5 << 20))


def artifact(folder: Path, size: int) -> tuple[str, Path]:
    content = os.urandom(size)
    sha256 = hashlib.sha256(content).hexdigest()
    path = folder / f"artifact-{sha256[:8]}"
    path.write_bytes(content)
    return sha256, path


def objects(root: Path) -> dict[str, str]:
    """The digests of what lies on the board, by name: they must be the same."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (root / "objects" / "sha256").iterdir()
    }


def whole(root: Path, artifacts: dict[str, Path]) -> bool:
    return objects(root) == {sha256: sha256 for sha256 in artifacts} and not list((root / "tmp").iterdir())


def push_to(device: Device, profile: DeviceProfile, artifacts: dict[str, Path]) -> PushResult:
    with open_board(device, profile, Path()) as board:
        return push(board, artifacts)


def test_second_push_sends_nothing(
    device: Device, profile: DeviceProfile, root: Path, artifacts: dict[str, Path]
) -> None:
    steps: list[tuple[int, int]] = []
    total = sum(path.stat().st_size for path in artifacts.values())
    with open_board(device, profile, Path()) as board:
        first = push(board, artifacts, progress=lambda sent, whole: steps.append((sent, whole)))
    assert (sorted(first.sent), first.present, first.bytes_sent) == (sorted(artifacts), (), total)
    assert steps[-1] == (total, total)
    assert steps == sorted(steps)
    assert whole(root, artifacts)
    second = push_to(device, profile, artifacts)
    assert (second.sent, sorted(second.present), second.bytes_sent) == ((), sorted(artifacts), 0)
    assert whole(root, artifacts)


def test_an_empty_board_is_not_asked_what_it_has(
    device: Device, profile: DeviceProfile, root: Path, artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[str] = []
    run_job = Board.run_job

    def noted(self: Board, operations: Sequence[Mapping[str, Any]], **limits: Any) -> dict[str, Any]:
        jobs.extend(operation["op"] for operation in operations)
        return run_job(self, operations, **limits)

    monkeypatch.setattr(Board, "run_job", noted)
    with open_board(device, profile, Path()) as board:
        push(board, artifacts)
        assert jobs == ["admit"]
        assert push(board, artifacts).sent == ()
        assert jobs == ["admit", "inventory"]
    with open_board(device, profile, Path()) as board:
        push(board, artifacts)
    assert jobs == ["admit", "inventory", "inventory"]
    assert whole(root, artifacts)


@pytest.mark.fault
def test_what_came_to_an_empty_board_meanwhile_is_no_harm(
    device: Device, profile: DeviceProfile, root: Path, artifacts: dict[str, Path]
) -> None:
    """A board that another host filled after the probe saw it empty ends with the same whole objects."""
    with open_board(device, profile, Path()) as board:
        push_to(device, profile, artifacts)
        assert set(push(board, artifacts).sent) == artifacts.keys()
    assert whole(root, artifacts)


@pytest.mark.fault
def test_a_push_tried_again_on_the_same_board_goes_on(
    device: Device, profile: DeviceProfile, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A push to an empty board that failed before its end is gone on with by the next over the same link."""
    one = dict([artifact(tmp_path, 3 << 20)])

    def lost(*_: object, **__: object) -> None:
        raise ConnectError(device.name, "the link is lost")

    with open_board(device, profile, Path()) as board:
        monkeypatch.setattr(Board, "run_job", lost)
        with pytest.raises(ConnectError):
            push(board, one)
        monkeypatch.undo()
        assert push(board, one).kept_bytes == 3 << 20
    assert whole(root, one)


def test_nothing_to_push_asks_nobody(device: Device, profile: DeviceProfile) -> None:
    with open_board(device, profile, Path()) as board:
        assert push(board, {}) == PushResult((), (), 0, 0.0)


def test_dry_run_says_what_and_sends_nothing(
    device: Device, profile: DeviceProfile, root: Path, artifacts: dict[str, Path]
) -> None:
    with open_board(device, profile, Path()) as board:
        result = push(board, artifacts, dry_run=True)
    assert set(result.sent) == artifacts.keys()
    assert objects(root) == {}


@pytest.mark.fault
@pytest.mark.parametrize("spoil", ["flip", "cut", "link"])
def test_spoilt_object_is_sent_again(
    device: Device, profile: DeviceProfile, root: Path, artifacts: dict[str, Path], spoil: str
) -> None:
    """An object that was flipped, cut short or made a link since is found out by its hash and replaced."""
    push_to(device, profile, artifacts)
    sha256 = max(artifacts, key=lambda each: artifacts[each].stat().st_size)
    lying = root / "objects" / "sha256" / sha256
    content = lying.read_bytes()
    lying.unlink()
    if spoil == "link":
        lying.symlink_to(artifacts[sha256])
    else:
        lying.write_bytes(content[:-1] + (b"" if spoil == "cut" else bytes([content[-1] ^ 1])))
    again = push_to(device, profile, artifacts)
    assert again.sent == (sha256,)
    assert whole(root, artifacts)
    assert not lying.is_symlink()


@pytest.mark.fault
def test_too_little_space_is_said_before_anything_is_sent(
    device: Device, profile: DeviceProfile, root: Path, artifacts: dict[str, Path]
) -> None:
    """A payload that would leave less free than is to stay free is refused before a byte of it is sent."""
    with (
        open_board(device, profile, Path()) as board,
        pytest.raises(
            BoardError, match=r"not enough space: 5\.0 MiB are to be sent and 1,048,576\.0 MiB must stay free"
        ),
    ):
        push(board, artifacts, reserve_bytes=1 << 40)
    assert objects(root) == {}
    assert not list((root / "tmp").iterdir())


@pytest.mark.fault
def test_file_that_changed_since_it_was_named_is_refused(
    device: Device, profile: DeviceProfile, root: Path, artifacts: dict[str, Path]
) -> None:
    """A local file that no longer is what its digest says never becomes an object on the board."""
    path = max(artifacts.values(), key=lambda each: each.stat().st_size)
    path.write_bytes(b"?" + path.read_bytes()[1:])
    with pytest.raises(
        TransferError, match=rf"1 of 3 files did not arrive whole, the first one {path.name}: .*SHA-256"
    ):
        push_to(device, profile, artifacts)
    assert path.name.removeprefix("artifact-") not in {name[:8] for name in objects(root)}
    assert all(name == digest for name, digest in objects(root).items())
    assert not list((root / "tmp").iterdir())


@pytest.mark.fault
def test_two_pushers_at_once(device: Device, profile: DeviceProfile, root: Path, artifacts: dict[str, Path]) -> None:
    """Two pushes of the same files at once both end well, with one whole object each."""
    both = threading.Barrier(2)
    results: list[PushResult | EdgeDeployError] = []

    def one() -> None:
        with open_board(device, profile, Path()) as board:
            both.wait(30)
            try:
                results.append(push(board, artifacts))
            except EdgeDeployError as error:
                results.append(error)

    at_once(one, one)
    assert [type(result) for result in results] == [PushResult, PushResult]
    assert whole(root, artifacts)


@pytest.mark.fault
def test_link_cut_during_push_leaves_nothing_half_written(
    over_ssh: Device,
    profile: DeviceProfile,
    root: Path,
    tmp_path: Path,
    server: LoopbackServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cable cut in the middle of a push leaves no object, and the next push sends only what had not arrived."""
    artifacts = dict(artifact(tmp_path, 12 << 20) for _ in range(2))
    known = server.folder / "cable_hosts"
    with Cable(server.port).plugged() as cable:
        known.write_text(server.known_hosts.read_text().replace(str(server.port), str(cable.port)))
        config = tmp_path / "cable_config"
        config.write_text(client_config(server, Port=str(cable.port), UserKnownHostsFile=str(known)))

        def impatient(board: str, address: Address, file: Path | None) -> SshTransport:
            return SshTransport(board, address, file, QUICK)

        monkeypatch.setattr("edgedeploy.transport.ssh.SshTransport", impatient)
        with open_board(replace(over_ssh, ssh_config=str(config)), profile, Path()) as board:
            cable.cut_after(16 << 20)
            with pytest.raises(TransportError):
                push(board, artifacts)
    assert objects(root) == {}
    result = push_to(over_ssh, profile, artifacts)
    assert set(result.sent) == artifacts.keys()
    assert result.bytes_sent + result.kept_bytes == 24 << 20
    assert result.kept_bytes >= 12 << 20, "the first file had arrived whole"
    assert objects(root) == {sha256: sha256 for sha256 in artifacts}


def test_a_packed_file_lies_where_it_is_smaller_and_can_be_rebuilt(device: Device, profile: DeviceProfile) -> None:
    variant = make_variant("a-onnx-fp32")
    larger = replace(variant, packed=replace(variant.packed, size_bytes=variant.artifact.size_bytes))
    # The Python that a session finds by itself may have no numpy.
    with open_board(replace(device, python=sys.executable), profile, Path()) as board:
        assert board.facts.has_numpy
        assert lying(board, variant) == variant.packed
        assert lying(board, larger) == variant.artifact
        board.facts = replace(board.facts, has_numpy=False)
        assert lying(board, variant) == variant.artifact
