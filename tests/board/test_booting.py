"""A board without Python is brought one, by shell and tar alone, and is as before where that fails."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.board import booting, open_board, session
from edgedeploy.board import provision as provisioning
from edgedeploy.board.debian import DebianPackages, DebianPython
from edgedeploy.board.provision import Provisioned, provision
from edgedeploy.board.runtime_choice import OwnPython
from edgedeploy.errors import BoardError, ConnectError, EdgeDeployError
from edgedeploy.records import Device, DeviceProfile
from tests.board.faulty import faulty
from tests.board.made_wheels import Shop, make_wheel

LOADER = booting._LOADERS.get(platform.machine(), "")
pytestmark = pytest.mark.skipif(not LOADER, reason="no Python is brought to this kind of machine")


@pytest.fixture
def mute(root: Path) -> Device:
    """A board that has no Python."""
    return Device("mute", "here", "local:", root=str(root), python="/no/such/python3")


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare_python: str) -> Path:
    """Wheels, and a "Python of its own" whose loader is a script that starts a Python of this machine."""
    folder = tmp_path / "shop"
    make_wheel(folder, "onnxruntime", "7.1")
    make_wheel(folder, "numpy", "1.99")
    loader, python = tmp_path / "loader", tmp_path / "python"
    loader.write_text(f'#!/bin/sh\n[ "$1" = --library-path ] || exit 9\nshift 3\nexec "{bare_python}" "$@"\n')
    python.write_bytes(b"\x7fELF that only the loader starts")
    own = DebianPython(
        OwnPython((3, 11), (2, 36), (3, 4, 30)),
        {f"lib/{LOADER}": loader, "bin/python3": python},
        {},
        {},
        ("python_1.deb",),
    )

    monkeypatch.setattr(provisioning, "PipIndex", lambda cache: Shop(folder))
    monkeypatch.setattr(DebianPackages, "why_not", lambda self: "")
    monkeypatch.setattr(DebianPackages, "python", lambda self: own)
    return folder


def bring(device: Device, kind: DeviceProfile, tmp_path: Path, **more: Any) -> Provisioned:
    return provision(device, kind, Path(), cache=tmp_path / "cache", **more)


def left(root: Path) -> list[str]:
    """What lies on the board beside its agent."""
    return sorted(str(path.relative_to(root)) for name in ("tmp", "runtimes") for path in (root / name).glob("*"))


def test_a_board_without_python_gets_one_and_uses_it(
    mute: Device, kind: DeviceProfile, tmp_path: Path, root: Path
) -> None:
    sent: list[tuple[int, int]] = []
    result = bring(mute, kind, tmp_path, progress=lambda *at: sent.append(at))
    assert (result.way, result.brought) == ("own python", {"onnxruntime": "7.1", "numpy": "1.99"})
    assert (result.cannot, result.found.runtimes) == ({}, {"onnxruntime": "7.1", "numpy": "1.99"})
    assert sent[-1] == (result.bytes_sent, result.bytes_sent)
    assert left(root) == sorted([f"runtimes/{result.bundle}", "runtimes/current"])
    assert not list((root / "objects" / "sha256").iterdir())
    with open_board(mute, kind, Path()) as board:
        assert board.interpreter[0] == f"{root}/runtimes/{result.bundle}/lib/{LOADER}"
        facts = board.result(board.run_job([{"op": "facts"}], timeout_s=120), 0)["facts"]
    assert (facts["runtimes"], facts["numpy"]) == ({"onnxruntime": "7.1"}, "1.99")
    again = bring(mute, kind, tmp_path)
    assert (again.brought, again.bytes_sent, again.bundle) == ({}, 0, result.bundle)


def test_a_newer_one_replaces_it(mute: Device, kind: DeviceProfile, tmp_path: Path, shop: Path, root: Path) -> None:
    first = bring(mute, kind, tmp_path)
    make_wheel(shop, "onnxruntime", "7.2")
    second = bring(mute, kind, tmp_path)
    assert second.found.runtimes["onnxruntime"] == "7.2"
    assert second.bundle != first.bundle
    assert left(root) == sorted([f"runtimes/{second.bundle}", "runtimes/current"])


@pytest.mark.fault
@pytest.mark.parametrize("fault", [{"flip": True}, {"cut_bytes": 100}], ids=["flipped", "truncated"])
def test_a_bundle_spoilt_on_the_way_is_not_run(
    mute: Device,
    kind: DeviceProfile,
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: dict[str, Any],
) -> None:
    """Where there is no Python to check with, the board's own sha256sum does, before any of the bundle is run."""
    with monkeypatch.context() as patch:
        faulty(patch, **fault)
        with pytest.raises(BoardError, match=r"^mute: the runtime that was sent cannot be unpacked there: sha256 is "):
            bring(mute, kind, tmp_path)
    assert left(root) == []
    assert bring(mute, kind, tmp_path).found.runtimes["onnxruntime"] == "7.1"


@pytest.mark.fault
@pytest.mark.parametrize("lost_at", ["clear", "boot", "--tethered"])
def test_a_link_lost_at_any_step(
    mute: Device, kind: DeviceProfile, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, lost_at: str
) -> None:
    """A link that is lost at any step leaves no runtime in use, and the next run mends."""
    with monkeypatch.context() as patch:
        faulty(patch, lost_at=lost_at)
        with pytest.raises(ConnectError, match="the link is lost"):
            bring(mute, kind, tmp_path)
    assert not (root / "runtimes" / "current").exists()
    result = bring(mute, kind, tmp_path)
    assert result.found.runtimes["onnxruntime"] == "7.1"
    assert not list((root / "tmp").glob("boot-*"))


@pytest.mark.fault
def test_a_bundle_that_had_arrived_is_not_sent_again(
    mute: Device, kind: DeviceProfile, tmp_path: Path, root: Path
) -> None:
    """A board that lost its power after the bundle was admitted is not sent it again; what was half unpacked goes."""
    first = bring(mute, kind, tmp_path)
    [bundle] = (tmp_path / "cache" / "bundles").glob("*.tar.gz")
    (root / "runtimes" / "current").unlink()
    for number in range(2):
        (root / "tmp" / f"runtime-{number}" / "unpacked").mkdir(parents=True)
    (root / "tmp" / "boot-x" / "lib").mkdir(parents=True)
    (root / "objects" / "sha256" / str(first.bundle)).write_bytes(bundle.read_bytes())
    sent: list[tuple[int, int]] = []
    assert bring(mute, kind, tmp_path, progress=lambda *at: sent.append(at)).found.runtimes["onnxruntime"] == "7.1"
    assert sent == []
    assert left(root) == sorted([f"runtimes/{first.bundle}", "runtimes/current"])


@pytest.mark.fault
def test_a_bundle_that_rotted_on_the_board(mute: Device, kind: DeviceProfile, tmp_path: Path, root: Path) -> None:
    """A bundle that lies on the board spoilt is told, removed, and sent afresh by the next run."""
    dry = bring(mute, kind, tmp_path, dry_run=True)
    rotten = root / "objects" / "sha256" / str(dry.bundle)
    rotten.write_bytes(b"rot")
    with pytest.raises(BoardError, match=r"cannot be unpacked there: sha256 is .*; run again"):
        bring(mute, kind, tmp_path)
    assert not rotten.exists()
    assert bring(mute, kind, tmp_path).found.runtimes["onnxruntime"] == "7.1"


@pytest.mark.fault
def test_neither_python_nor_tar(
    mute: Device, kind: DeviceProfile, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board on which nothing can be unpacked is told what it lacks, and is sent nothing."""
    real = session.probe

    def probe(*arguments: Any) -> Any:
        facts = real(*arguments)
        return replace(facts, system=replace(facts.system, has_tar=False))

    monkeypatch.setattr(provisioning, "probe", probe)
    with pytest.raises(BoardError, match=r"^mute: the board has neither a Python that can be used nor tar"):
        bring(mute, kind, tmp_path)
    assert left(root) == []


@pytest.mark.fault
def test_a_python_that_does_not_run_there(mute: Device, kind: DeviceProfile, tmp_path: Path, root: Path) -> None:
    """A Python that was brought and does not start on the board's kernel is told with its last words, and goes."""
    (tmp_path / "loader").write_text("#!/bin/sh\necho 'FATAL: kernel too old' >&2\nexit 127\n")
    with pytest.raises(EdgeDeployError, match=r"^mute: .*FATAL: kernel too old"):
        bring(mute, kind, tmp_path)
    assert left(root) == []


@pytest.mark.fault
def test_too_little_room(
    mute: Device, kind: DeviceProfile, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room is counted before anything is sent to a board without Python too."""
    monkeypatch.setattr(booting, "BOOT_BYTES", 1 << 60)
    with pytest.raises(BoardError, match=r"^mute: not enough space: the runtime takes \d+ MiB"):
        bring(mute, kind, tmp_path)
    assert left(root) == []
