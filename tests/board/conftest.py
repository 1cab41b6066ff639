from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgedeploy.records import Device, DeviceProfile, Format, Precision, RuntimeSupport
from tests.servers import SERVER_KINDS, ssh_device
from tools.adbd import SERIAL, Phone
from tools.loopback_ssh import LoopbackServer, loopback_ssh


@pytest.fixture(scope="session")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is first on the SSH board's PATH, for programs that lie about it."""
    return tmp_path_factory.mktemp("stubs")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, stubs: Path) -> Iterator[LoopbackServer]:
    import os

    path = os.pathsep.join([str(stubs), os.environ["PATH"]])
    with loopback_ssh(tmp_path_factory.mktemp("server"), environment={"PATH": path}, kind=SERVER_KINDS[0]) as server:
        yield server


@pytest.fixture
def profile() -> DeviceProfile:
    """The kind of board that this machine is."""
    return DeviceProfile("here", "this machine", platform.machine(), (), (), 1 << 30, (), ("local", "ssh"))


@pytest.fixture
def kind(profile: DeviceProfile) -> DeviceProfile:
    """The same with a runtime, to be provisioned."""
    return replace(profile, runtimes=(RuntimeSupport("onnxruntime", Format.ONNX, (Precision.FP32,)),))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder on the board that is ours; its name has a space."""
    return tmp_path / "the board" / "root"


@pytest.fixture
def over_ssh(server: LoopbackServer, root: Path) -> Device:
    return ssh_device(server, root)


@pytest.fixture
def over_adb(phone: Phone, root: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    """This machine as a phone that has a Python, the one that runs the tests."""
    monkeypatch.setenv("ADB_SERVER_SOCKET", phone.environment["ADB_SERVER_SOCKET"])
    return Device("phone", "here", f"adb://{SERIAL}", root=str(root), python=sys.executable)


@pytest.fixture(params=["local", "ssh", "adb"])
def device(request: pytest.FixtureRequest, root: Path) -> Device:
    """This machine, as itself, as a board behind SSH and as a phone behind adb."""
    if request.param == "local":
        return Device("local-board", "here", "local:", root=str(root))
    found: Device = request.getfixturevalue(f"over_{request.param}")
    return found


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small library that needs no more than `puts` of any C library."""
    # only a compiler makes a real one, and the tests know for these machines alone what it will need
    if platform.machine() not in {"x86_64", "aarch64"}:
        pytest.skip(f"what a library needs on {platform.machine()} is not known")
    folder = tmp_path_factory.mktemp("library")
    (folder / "say.c").write_text('#include <stdio.h>\nint say(void) { return puts("x"); }\n')
    subprocess.run(["cc", "-shared", "-fPIC", "-o", "say.so", "say.c"], cwd=folder, check=True)
    return (folder / "say.so").read_bytes()


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python of this machine that has no packages at all."""
    folder = tmp_path_factory.mktemp("bare") / "python"
    base = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([base, "-m", "venv", "--without-pip", str(folder)], check=True)
    return str(folder / "bin" / "python3")
