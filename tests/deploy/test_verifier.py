"""A board without ssh-keygen is brought what checks signatures, and takes releases by that alone."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgedeploy.board import open_board
from edgedeploy.board import provision as provisioning
from edgedeploy.board.debian import DebianPackages
from edgedeploy.board.provision import Provisioned, provision
from edgedeploy.deploy import SigningKey
from edgedeploy.errors import BoardError
from edgedeploy.records import Device, Format, Precision, RuntimeSupport
from tests.board.made_wheels import Shop, make_wheel
from tests.deploy.releasing import Built
from tests.deploy.test_activation import KIND, activate, wanted
from tests.servers import SERVER_KINDS, ssh_device
from tools.loopback_ssh import loopback_ssh

ONNX = replace(KIND, runtimes=(RuntimeSupport("onnxruntime", Format.ONNX, (Precision.FP32,)),))
BROUGHT = {name: importlib.metadata.version(name) for name in ("pynacl", "cffi")}


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH that has all that this machine's has, but for ssh-keygen."""
    folder = tmp_path_factory.mktemp("tools")
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).glob("*"):
            if program.name != "ssh-keygen" and not (folder / program.name).exists():
                (folder / program.name).symlink_to(program)
    return str(folder)


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has numpy and ONNX Runtime, and no library that checks signatures."""
    folder = tmp_path_factory.mktemp("python")
    base = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([base, "-m", "venv", "--without-pip", str(folder)], check=True)
    [packages] = folder.glob("lib/python3*/site-packages")
    for name in ("numpy", "onnxruntime"):
        found = importlib.util.find_spec(name)
        assert found is not None
        assert found.origin is not None
        for place in Path(found.origin).parent.parent.glob(f"{name}*"):
            (packages / place.name).symlink_to(place)
    return str(folder / "bin" / "python3")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All the registry that there is: this machine's own PyNaCl and cffi, as wheels."""
    folder = tmp_path / "shop"
    for name, version in BROUGHT.items():
        files = importlib.metadata.files(name) or ()
        contents = {str(file): file.read_binary() for file in files if ".." not in file.parts and file.suffix != ".pyc"}
        make_wheel(
            folder, name, version, files={name: one for name, one in contents.items() if ".dist-info" not in name}
        )
    monkeypatch.setattr(provisioning, "PipIndex", lambda cache: Shop(folder))
    monkeypatch.setattr(DebianPackages, "why_not", lambda self: "no apt here")
    return folder


@pytest.fixture(params=["local", "ssh"])
def device(
    request: pytest.FixtureRequest,
    tools: str,
    python: str,
    shop: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Device]:
    """A board without ssh-keygen."""
    root = tmp_path / "the board" / "root"
    if request.param == "local":
        monkeypatch.setenv("PATH", tools)
        yield Device("board", "here", "local:", root=str(root), python=python)
        return
    with loopback_ssh(tmp_path / "server", environment={"PATH": tools}, kind=SERVER_KINDS[0]) as server:
        yield replace(ssh_device(server, root, python=python), name="board")


def bring(device: Device, tmp_path: Path) -> Provisioned:
    return provision(device, ONNX, Path(), cache=tmp_path / "cache")


def spoilt(key: SigningKey) -> SigningKey:
    """The same key, which signs something else than it is asked to."""

    class Spoilt(SigningKey):
        def sign(self, message: str, namespace: str) -> str:
            return key.sign(message + " ", namespace)

    return Spoilt(key.name, key.path, key.public)


def test_what_was_brought_checks_releases(
    device: Device, first: Built, second: Built, key: SigningKey, tmp_path: Path
) -> None:
    with pytest.raises(BoardError, match=r"nothing on this board can check its signature: run `edgedeploy provision`"):
        activate(device, wanted(first, tmp_path), key)
    result = bring(device, tmp_path)
    assert (result.brought, result.way, result.cannot) == (BROUGHT, "wheels", {})
    assert set(result.found.runtimes) == {"numpy", "onnxruntime"}
    assert result.found.verifier == "nacl"
    done = activate(device, wanted(first, tmp_path), key)
    assert (done.rolled_back, done.state.current and done.state.current.number) == ("", done.number)
    with pytest.raises(BoardError, match="its signature is wrong: it was changed after it was signed"):
        activate(device, wanted(second, tmp_path), spoilt(key))
    again = bring(device, tmp_path)
    assert (again.brought, again.bytes_sent, again.bundle) == ({}, 0, result.bundle)


@pytest.mark.fault
@pytest.mark.parametrize("how", ["gone", "no library"])
def test_a_verifier_that_was_spoilt_there(
    device: Device, first: Built, key: SigningKey, tmp_path: Path, how: str
) -> None:
    """A verifier that does not load refuses the release, whatever is wrong with it, and provisioning mends it."""
    result = bring(device, tmp_path)
    library = Path(device.root) / "runtimes" / str(result.bundle) / "site" / "nacl" / "_sodium.abi3.so"
    library.unlink()
    if how == "no library":
        library.write_bytes(b"\x7fELF and nothing more")
    with pytest.raises(BoardError, match="nothing on this board can check its signature"):
        activate(device, wanted(first, tmp_path), key)
    mended = bring(device, tmp_path)
    assert (mended.bundle, mended.brought, mended.cannot) == (result.bundle, BROUGHT, {})
    assert activate(device, wanted(first, tmp_path), key).rolled_back == ""


@pytest.mark.fault
def test_a_verifier_that_cannot_be_had_is_told(device: Device, shop: Path, tmp_path: Path) -> None:
    """Where no wheel of it is published the board goes without, and the reason says what to install instead."""
    for wheel in shop.glob("cffi-*"):
        wheel.unlink()
    result = bring(device, tmp_path)
    assert (result.bundle, result.brought) == (None, {})
    assert result.cannot["pynacl"].startswith("no wheel of cffi is published for Python 3")
    assert (
        "; without it and without ssh-keygen (openssh-client 8.2 or later) the board takes no release"
        in result.cannot["pynacl"]
    )


def test_runtimes_and_verifier_come_together(device: Device, shop: Path, tmp_path: Path, python: str) -> None:
    make_wheel(
        shop,
        "tflite-runtime",
        "7.2",
        files={"tflite_runtime/__init__.py": b"__version__ = '7.2'", "tflite_runtime/interpreter.py": b""},
    )
    make_wheel(shop, "numpy", "1.99")
    result = provision(device, ONNX, Path(), runtimes=["tflite-runtime"], cache=tmp_path / "cache")
    assert set(result.brought) == {"tflite-runtime", "numpy", "pynacl", "cffi"}
    assert result.found.verifier == "nacl"
    with open_board(device, ONNX, Path()) as board:
        facts = board.result(board.run_job([{"op": "facts"}], timeout_s=120), 0)["facts"]
    assert (facts["verifier"], facts["runtimes"]["tflite_runtime"]) == ("nacl", "7.2")


def test_a_board_with_ssh_keygen_is_brought_none(python: str, shop: Path, tmp_path: Path) -> None:
    device = Device("board", "here", "local:", root=str(tmp_path / "root"), python=python)
    result = bring(device, tmp_path)
    assert (result.brought, result.found.verifier) == ({}, "ssh-keygen")
