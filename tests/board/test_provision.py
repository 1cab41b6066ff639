"""A board is brought what it lacks, runs its jobs with that by itself, and is as before where anything fails."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.board import open_board
from edgedeploy.board import provision as provisioning
from edgedeploy.board.debian import DebianPackages
from edgedeploy.board.provision import Provisioned, provision
from edgedeploy.board.wheels import PipIndex
from edgedeploy.errors import BoardError, DownloadError, TransferError
from edgedeploy.records import Device, DeviceProfile
from edgedeploy.transport import Completed
from edgedeploy.transport.local import LocalTransport
from tests.board.faulty import faulty
from tests.board.made_wheels import Shop, make_wheel, registry, unreachable_registry
from tests.servers import ssh_device
from tools.loopback_ssh import LoopbackServer


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All the registry that there is: two runtimes and numpy."""
    folder = tmp_path / "shop"
    for name, version in [("onnxruntime", "7.1"), ("tflite-runtime", "7.2"), ("numpy", "1.99")]:
        make_wheel(folder, name, version)
    interpreter = {"tflite_runtime/__init__.py": b"__version__ = '7.2'", "tflite_runtime/interpreter.py": b""}
    make_wheel(folder, "tflite-runtime", "7.2", files=interpreter)
    monkeypatch.setattr(provisioning, "PipIndex", lambda cache: Shop(folder))
    monkeypatch.setattr(DebianPackages, "why_not", lambda self: "no apt here")
    return folder


@pytest.fixture(params=["local", "ssh"])
def device(request: pytest.FixtureRequest, server: LoopbackServer, root: Path, bare_python: str) -> Device:
    if request.param == "local":
        return Device("local-board", "here", "local:", root=str(root), python=bare_python)
    return ssh_device(server, root, python=bare_python)


@pytest.fixture
def with_runtime(tmp_path: Path, root: Path, bare_python: str) -> Device:
    """A board whose Python has a runtime of its own, such as a build for its GPU."""
    folder = tmp_path / "python"
    subprocess.run([bare_python, "-m", "venv", "--without-pip", str(folder)], check=True)
    [packages] = folder.glob("lib/python3*/site-packages")
    (packages / "onnxruntime.py").write_text("__version__ = '5.0 for the GPU'")
    return Device("gpu-board", "here", "local:", root=str(root), python=str(folder / "bin" / "python3"))


@pytest.fixture
def local(root: Path, bare_python: str) -> Device:
    return Device("local-board", "here", "local:", root=str(root), python=bare_python)


def bring(device: Device, kind: DeviceProfile, tmp_path: Path, **more: Any) -> Provisioned:
    return provision(device, kind, Path(), cache=tmp_path / "cache", **more)


def imports(device: Device, kind: DeviceProfile) -> dict[str, str]:
    with open_board(device, kind, Path()) as board:
        found: dict[str, str] = board.result(board.run_job([{"op": "facts"}], timeout_s=120), 0)["facts"]["runtimes"]
    return found


def tidy(root: Path) -> bool:
    return not list((root / "tmp").iterdir()) and not list((root / "objects" / "sha256").iterdir())


def test_a_bare_board_gets_its_runtime_and_uses_it(
    device: Device, kind: DeviceProfile, shop: Path, tmp_path: Path, root: Path
) -> None:
    assert imports(device, kind) == {}
    sent: list[tuple[int, int]] = []
    result = bring(device, kind, tmp_path, progress=lambda *at: sent.append(at))
    assert result.brought == {"onnxruntime": "7.1", "numpy": "1.99"}
    assert (result.way, result.cannot, result.dry_run) == ("wheels", {}, False)
    assert result.found.runtimes == {"onnxruntime": "7.1", "numpy": "1.99"}
    assert sent[-1] == (result.bytes_sent, result.bytes_sent)
    assert tidy(root)
    assert imports(device, kind) == {"onnxruntime": "7.1"}
    with open_board(device, kind, Path()) as board:
        assert (board.facts.bundle, board.facts.has_numpy) == (result.bundle, True)
    again = bring(device, kind, tmp_path)
    assert (again.brought, again.bytes_sent, again.bundle) == ({}, 0, result.bundle)


def test_pip_brings_it(
    local: Device, kind: DeviceProfile, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provisioning, "PipIndex", PipIndex)
    registry(monkeypatch, shop)
    assert bring(local, kind, tmp_path).found.runtimes == {"onnxruntime": "7.1", "numpy": "1.99"}


def test_a_dry_run_sends_nothing(local: Device, kind: DeviceProfile, shop: Path, tmp_path: Path, root: Path) -> None:
    result = bring(local, kind, tmp_path, dry_run=True)
    assert result.brought == {"onnxruntime": "7.1", "numpy": "1.99"}
    assert result.bytes_sent > 0
    assert not (root / "runtimes").exists()


def test_another_runtime_by_name(local: Device, kind: DeviceProfile, shop: Path, tmp_path: Path) -> None:
    bring(local, kind, tmp_path)
    result = bring(local, kind, tmp_path, runtimes=["tflite-runtime"])
    assert set(result.brought) == {"onnxruntime", "tflite-runtime", "numpy"}
    assert set(imports(local, kind)) == {"onnxruntime", "tflite_runtime"}


def test_what_the_board_has_is_left_in_use(
    with_runtime: Device, kind: DeviceProfile, shop: Path, tmp_path: Path
) -> None:
    asked = ["onnxruntime", "tflite-runtime"]
    result = bring(with_runtime, kind, tmp_path, runtimes=asked)
    assert set(result.brought) == {"tflite-runtime", "numpy"}
    assert imports(with_runtime, kind) == {"onnxruntime": "5.0 for the GPU", "tflite_runtime": "7.2"}
    again = bring(with_runtime, kind, tmp_path, runtimes=asked)
    assert (again.bundle, again.bytes_sent) == (result.bundle, 0)


@pytest.mark.fault
def test_a_cache_that_cannot_be_written(local: Device, kind: DeviceProfile, shop: Path, tmp_path: Path) -> None:
    """A cache folder that this machine cannot make is one sentence with the mend, and the board is left alone."""
    (tmp_path / "cache").touch()
    with pytest.raises(
        DownloadError, match=r"cannot write to .*/cache: File exists; make it writable, or set EDGEDEPLOY_C"
    ):
        bring(local, kind, tmp_path)


def test_python_named_anew_is_another_python(
    local: Device, kind: DeviceProfile, shop: Path, tmp_path: Path, bare_python: str
) -> None:
    bring(local, kind, tmp_path)
    other = replace(local, python=f"{Path(bare_python).parent}/python")
    assert imports(other, kind) == {}
    assert imports(replace(local, python=None), kind) == {"onnxruntime": "7.1"}


def test_probing_takes_two_round_trips(
    local: Device, kind: DeviceProfile, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(local, kind, tmp_path)
    ran: list[Sequence[str]] = []
    real = LocalTransport.run

    def run(self: LocalTransport, argv: Sequence[str], **options: Any) -> Completed:
        ran.append(argv)
        return real(self, argv, **options)

    monkeypatch.setattr(LocalTransport, "run", run)
    bring(local, kind, tmp_path)
    assert [argv[0] for argv in ran if argv[0] != "rm"] == ["sh", local.python]


def test_what_cannot_be_had_is_a_result(local: Device, kind: DeviceProfile, shop: Path, tmp_path: Path) -> None:
    both = replace(kind, runtimes=(*kind.runtimes, replace(kind.runtimes[0], name="ai-edge-litert")))
    result = bring(local, both, tmp_path)
    assert result.notes[0].startswith("tflite-runtime 7.2 instead of ai-edge-litert: no wheel of ai-edge-litert is")
    (shop / "tflite_runtime-7.2-py3-none-any.whl").unlink()
    result = bring(local, both, tmp_path / "else")
    assert list(result.cannot) == ["ai-edge-litert"]
    assert "is published for Python 3" in result.cannot["ai-edge-litert"]


@pytest.mark.fault
def test_a_runtime_that_does_not_import_leaves_the_old_one(
    local: Device, kind: DeviceProfile, shop: Path, tmp_path: Path, root: Path
) -> None:
    """A wheel that was brought and does not import there is thrown away, and jobs go on with what they had."""
    first = bring(local, kind, tmp_path)
    make_wheel(shop, "onnxruntime", "8.0", files={"onnxruntime/__init__.py": b"raise ImportError('no such symbol')"})
    with pytest.raises(BoardError, match=r"nothing in it can be imported here: .*no such symbol"):
        bring(local, kind, tmp_path / "new day")
    assert (root / "runtimes" / "current").read_text().splitlines()[0] == first.bundle
    assert imports(local, kind)["onnxruntime"] == "7.1"
    assert [path.name for path in (root / "runtimes").iterdir() if path.is_dir()] == [first.bundle]


@pytest.mark.fault
def test_a_runtime_spoilt_on_the_board_is_mended(
    local: Device, kind: DeviceProfile, shop: Path, tmp_path: Path, root: Path
) -> None:
    """A provisioned runtime that rotted on the board is found by the next run and brought again."""
    first = bring(local, kind, tmp_path)
    module = root / "runtimes" / str(first.bundle) / "site" / "onnxruntime" / "__init__.py"
    module.write_text("nonsense (")
    again = bring(local, kind, tmp_path)
    assert again.bundle == first.bundle
    assert again.bytes_sent == first.bytes_sent
    assert imports(local, kind)["onnxruntime"] == "7.1"


@pytest.mark.fault
def test_an_unreachable_registry_leaves_the_board_alone(
    local: Device, kind: DeviceProfile, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing can be downloaded, the user is told in one sentence and the board has no trace of the attempt."""
    unreachable_registry(monkeypatch)
    with pytest.raises(DownloadError, match="could not be downloaded"):
        bring(local, kind, tmp_path)
    assert not (root / "runtimes").exists()
    assert tidy(root)


@pytest.mark.fault
@pytest.mark.parametrize("fault", [{"flip": True}, {"cut_bytes": 100}], ids=["flipped", "truncated"])
def test_a_bundle_spoilt_on_the_way(
    local: Device,
    kind: DeviceProfile,
    shop: Path,
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: dict[str, Any],
) -> None:
    """A bundle that did not arrive whole is told by its hash, before anything is unpacked; the next run succeeds."""
    with monkeypatch.context() as patch:
        faulty(patch, **fault)
        with pytest.raises(TransferError, match="1 of 1 files did not arrive whole"):
            bring(local, kind, tmp_path)
    assert not (root / "runtimes" / "current").exists()
    assert tidy(root)
    assert bring(local, kind, tmp_path).found.runtimes["onnxruntime"] == "7.1"


@pytest.mark.fault
def test_too_little_space_is_told_before_anything_is_sent(
    local: Device, kind: DeviceProfile, shop: Path, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board that has not the room for a runtime is told so with both figures, and nothing is sent."""
    monkeypatch.setattr(provisioning, "BLOCK_BYTES", 1 << 60)
    with pytest.raises(
        BoardError, match=r"not enough space: the runtime takes \d+ MiB while it is unpacked, and \d+ MiB"
    ):
        bring(local, kind, tmp_path)
    assert not (root / "runtimes").exists()
    assert tidy(root)


class InNamespace(LocalTransport):
    """A board whose root folder is a file system mounted in some way, as seen by every command and by no one else."""

    options = ""
    folder = ""

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        mount = f'mount -t tmpfs -o {self.options} none "$0" && exec "$@"'
        return super().run(["unshare", "-Urm", "sh", "-c", mount, self.folder, *argv], **options)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            "noexec",
            r"nothing can be executed under .*: set `root = \"/.*/\.edgedeploy\"` in fleet\.toml, where it can\.",
        ),
        ("ro", r"cannot write to .*/root: Read-only file system; mount it writable \(.*\), or set `root =`"),
        ("nr_inodes=1", r"cannot write to .*/root: No space left on device, for its inodes are used up; remove files"),
    ],
)
def test_a_root_that_is_mounted_so(
    local: Device,
    kind: DeviceProfile,
    shop: Path,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: str,
    complaint: str,
) -> None:
    """A root that is noexec, read-only or out of inodes is told before anything is brought, and how to mend it."""
    # some kernels and containers keep namespaces from their users, and no folder can be mounted so without one
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode != 0:
        pytest.skip("no user namespaces here")
    root.mkdir(parents=True)
    monkeypatch.setattr(InNamespace, "options", options)
    monkeypatch.setattr(InNamespace, "folder", str(root))
    transport = InNamespace(local.name)
    monkeypatch.setattr(provisioning, "open_transport", lambda device, base: transport)
    monkeypatch.setattr(provisioning, "_board", lambda *_: None)  # each command has a root of its own
    with pytest.raises(BoardError, match=complaint):
        bring(local, kind, tmp_path)
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def no_python(root: Path) -> Device:
    return Device("mute", "here", "local:", root=str(root), python="/no/such/python3")


@pytest.mark.fault
def test_no_python_and_none_to_bring(no_python: Device, kind: DeviceProfile, shop: Path, tmp_path: Path) -> None:
    """A board without Python, on a host that can bring none, goes without, and both reasons are told."""
    result = bring(no_python, kind, tmp_path)
    assert result.cannot == {"onnxruntime": "the board has no Python; no apt here"}
    assert (result.bundle, result.brought, result.found.python) == (None, {}, "")


@pytest.mark.fault
def test_a_provisioned_python_that_does_not_start_is_told(
    local: Device, kind: DeviceProfile, shop: Path, tmp_path: Path, root: Path
) -> None:
    """A runtime in use whose Python is gone is an error that names it and the mend, not a silent other Python."""
    result = bring(local, kind, tmp_path)
    (root / "runtimes" / "current").write_text(f"{result.bundle}\n/gone/python3\n")
    with (
        pytest.raises(
            BoardError, match=rf"the provisioned runtime {str(result.bundle)[:12]} does not start; run `edged"
        ),
        open_board(replace(local, python=None), kind, Path()),
    ):
        pass
    assert bring(replace(local, python=None), kind, tmp_path, dry_run=True) is not None


@pytest.mark.parametrize("pointer", ["", "../../etc\npython3\n", "0" * 64 + "\npython3\n", "x" * 5000])
def test_a_pointer_that_leads_nowhere_is_passed_over(
    local: Device, kind: DeviceProfile, root: Path, pointer: str
) -> None:
    (root / "runtimes").mkdir(parents=True)
    (root / "runtimes" / "current").write_text(pointer)
    with open_board(local, kind, Path()) as board:
        assert board.facts.bundle is None
