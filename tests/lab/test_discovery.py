from __future__ import annotations

from pathlib import Path

import pytest

from edgedeploy.errors import PlanError
from edgedeploy.lab.discovery import Candidate, discover, suggest_profile
from edgedeploy.plan import load_profiles
from edgedeploy.records import Device
from edgedeploy.transport.adb_server import AdbServer
from tests.odd_adb import listens
from tools.loopback_ssh import free_port

PROFILES = load_profiles()
ADB = """\
* daemon started successfully
List of devices attached
38181FDJH00AAA         device usb:1-1 product:shiba model:Pixel_8 device:shiba transport_id:1
192.168.1.7:5555       unauthorized transport_id:2
0123456789             no permissions (user in plugdev group); see [http://developer.android.com]
garbage
"""


@pytest.fixture
def adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called adb that says what ours is to read; it stands in for phones, which are not here."""
    program = tmp_path / "bin" / "adb"
    program.parent.mkdir()
    (tmp_path / "said").write_text(ADB)
    program.write_text(f"#!/bin/sh\n/bin/cat '{tmp_path / 'said'}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setenv("ADB_SERVER_SOCKET", "tcp:elsewhere:5037")  # no server is there to be knocked at
    for kit in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        monkeypatch.delenv(kit, raising=False)
    return program


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "more").write_text("Host=kitchen\n  User pi\n")
    file = tmp_path / "config"
    file.write_text(f"Include {tmp_path / 'more'}\nHost\tDesk-Pi 'odd name' *.lab !x\n  Port 2222\nHost *\n  User me\n")
    return file


@pytest.mark.usefixtures("adb")
def test_phones_and_hosts_that_are_not_in_the_fleet_are_proposed(config: Path) -> None:
    known = [Device("k", "pi4", "ssh://pi@kitchen"), Device("desk-pi", "pi4", "ssh://elsewhere")]
    found, notes = discover(known, PROFILES, config)
    assert notes == []
    assert found == [
        Candidate("pixel-8", "adb://38181FDJH00AAA", "adb: Pixel 8", "pixel-8"),
        Candidate(
            "192.168.1.7-5555",
            "adb://192.168.1.7:5555",
            "adb: 192.168.1.7:5555",
            "android-arm64",
            "confirm this machine's key on its screen",
        ),
        Candidate(
            "0123456789",
            "adb://0123456789",
            "adb: 0123456789",
            "android-arm64",
            "this account may not open its USB device; add a udev rule",
        ),
        Candidate("desk-pi-2", "ssh://Desk-Pi", str(config), ssh_config=str(config)),
    ]
    assert found[-1].table()["profile"] == "CHOOSE"


@pytest.mark.usefixtures("adb")
@pytest.mark.parametrize(
    ("here", "address", "port", "same"),
    [
        ("tcp:elsewhere:5037", "adb://38181FDJH00AAA", None, True),
        ("tcp:elsewhere:5037", "adb://model:Pixel_8", None, True),
        ("tcp:elsewhere:5037", "adb://usb:1-1", None, True),
        ("tcp:elsewhere:5037", "adb://38181FDJH00AAA?server-port=5037", None, False),
        ("tcp:elsewhere:5037", "adb://38181FDJH00AAA", 5037, False),
        ("tcp:elsewhere:5037", "adb://usb:1-11", None, False),
        ("tcp:5037", "adb://38181FDJH00AAA?server-port=5037", None, True),
        ("tcp:127.0.0.1:5037", "adb://38181FDJH00AAA", 5037, True),
        ("tcp:127.0.0.1:5037", "adb://38181FDJH00AAA?server-port=5038", 5037, False),
        ("localfilesystem:/run/adb", "adb://38181FDJH00AAA?server-port=5037", None, False),
    ],
)
def test_one_serial_behind_two_adb_servers_is_two_phones(
    config: Path, monkeypatch: pytest.MonkeyPatch, here: str, address: str, port: int | None, same: bool
) -> None:
    monkeypatch.setenv("ADB_SERVER_SOCKET", here)
    monkeypatch.setattr(AdbServer, "answers", lambda _: True)
    found, _ = discover([Device("known", "pixel-8", address, adb_server_port=port)], PROFILES, config)
    assert ("adb://38181FDJH00AAA" not in {one.address for one in found}) is same
    assert "adb://192.168.1.7:5555" in {one.address for one in found}


@pytest.mark.usefixtures("adb")
def test_phones_with_one_serial_are_told_apart_by_their_ports(config: Path, tmp_path: Path) -> None:
    two = "".join(f"0123 device usb:1-{port} model:Toy transport_id:{port}\n" for port in (2, 4))
    (tmp_path / "said").write_text("List of devices attached\n" + two)
    phones = [one for one in discover([], PROFILES, config)[0] if one.address.startswith("adb:")]
    assert [(one.name, one.address) for one in phones] == [("toy", "adb://usb:1-2"), ("toy-2", "adb://usb:1-4")]
    known = Device("known", "pixel-8", "adb://usb:1-4")
    assert next(one.address for one in discover([known], PROFILES, config)[0]) == "adb://usb:1-2"


def test_a_phone_of_the_fleet_with_a_bad_address_is_a_mistake(config: Path, adb: Path) -> None:
    assert adb.exists()
    with pytest.raises(PlanError, match=r"^device 'known': the address 'adb://-H' should be `adb://SERIAL`"):
        discover([Device("known", "pixel-8", "adb://-H")], PROFILES, config)


def test_what_could_not_be_looked_at_is_said(config: Path, adb: Path) -> None:
    adb.write_text("#!/bin/sh\nexit 1\n")
    found, notes = discover([], PROFILES, config)
    assert ([one.address for one in found], len(notes)) == (["ssh://kitchen", "ssh://Desk-Pi"], 1)
    adb.unlink()
    assert discover([], PROFILES, config)[1] == ["adb is not installed, so phones were not looked for"]


def test_adb_server_that_was_started_to_look_is_ended(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
    monkeypatch.delenv("ADB_SERVER_SOCKET", raising=False)
    assert discover([], PROFILES, config)[1] == []
    assert not listens(port)


@pytest.mark.parametrize(
    ("machine", "model", "profile"),
    [
        ("aarch64", "Raspberry Pi 4 Model B Rev 1.4", "pi4"),
        ("aarch64", "Raspberry Pi Zero 2 W Rev 1.0", "pi-zero-2w"),
        ("aarch64", "NVIDIA Jetson Orin Nano Developer Kit", "jetson-orin-nano"),
        ("x86_64", "", "x86-64"),
        ("aarch64", "Some board", None),
        ("", "", None),
    ],
)
def test_a_profile_is_suggested_by_the_model(machine: str, model: str, profile: str | None) -> None:
    assert suggest_profile(machine, model, PROFILES) == profile
