"""What a user reads of a phone that cannot be used, beside a board that can: adb is real, and so is an adbd killed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgedeploy.cli import main
from tests.odd_adb import distrustful_adbd, listing_server
from tests.phones import a_phone
from tests.support.project import local_fleet, write_project
from tools.adbd import SERIAL
from tools.loopback_ssh import free_port

pytestmark = pytest.mark.fault

PHONE = '[[device]]\nname = "phone"\nprofile = "x86-64"\naddress = "{}"\n'
TOY = "device usb:1-{} model:Toy transport_id:{}\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where adb keeps its keys and logs, and edgedeploy its locks."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def told(folder: Path, capsys: pytest.CaptureFixture[str], address: str) -> tuple[int, str]:
    """How probing a fleet of this machine and a phone ends, and what is said of the phone; this machine answers."""
    fleet = local_fleet(folder / "project") + PHONE.format(address) + f'root = "{folder / "phone"}"\n'
    project = write_project(folder / "project", fleet=fleet)
    code = main(["devices", "probe", "--json", "--project", str(project)])
    here, phone = json.loads(capsys.readouterr().out)
    assert here["facts"]["machine"] == os.uname().machine
    return code, phone["error"] or ""


def test_phone_unauthorised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A phone that does not trust this computer, on a cable or over the network, is to be unlocked: exit code 3."""
    with listing_server("38DD unauthorized usb:1-2 transport_id:1\n") as server:
        code, said = told(tmp_path, capsys, f"adb://38DD?server-port={server}")
    assert (code, said.startswith("phone: the phone 38DD does not trust this computer yet: unlock it and")) == (3, True)
    with distrustful_adbd() as port:
        code, said = told(tmp_path, capsys, f"adb://127.0.0.1:{port}?server-port={free_port()}")
    assert (code, f"phone: the phone 127.0.0.1:{port} does not trust this computer yet: unlock it" in said) == (3, True)


def test_phone_offline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A phone that stays offline is exit code 3 and told to be plugged in again."""
    with listing_server("38DD offline usb:1-2 transport_id:1\n") as server:
        code, said = told(tmp_path, capsys, f"adb://38DD?server-port={server}")
    assert code == 3
    assert said.startswith("phone: the phone 38DD is plugged in but does not answer (offline): plug it in again")


@pytest.mark.parametrize("named", ["0123", "model:Toy"])
def test_two_phones_of_a_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str], named: str) -> None:
    """Where two phones have the serial or the model, neither is taken: both are listed, with what tells them apart."""
    serials = ("0123", "0123" if named == "0123" else "4567")
    lines = "".join(f"{serial} {TOY.format(port, port)}" for serial, port in zip(serials, (2, 4), strict=True))
    with listing_server(lines) as server:
        code, said = told(tmp_path, capsys, f"adb://{named}?server-port={server}")
    assert code == 3
    assert said.startswith(
        f"phone: '{named}' is 2 phones: 0123 (device, usb:1-2, model:Toy), {serials[1]} (device, usb:1-4"
    )
    assert said.endswith(
        "name one in fleet.toml, by its serial or by the USB port that it is plugged in at, as adb://usb:1-4."
    )


def test_several_phones_and_none_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that names no phone is a mistake in the fleet, however many are plugged in; the mend lists them."""
    lines = "".join(f"{serial} {TOY.format(port, port)}" for serial, port in (("38DD", 2), ("91AX", 4)))
    with listing_server(lines) as server:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server))
        monkeypatch.delenv("ADB_SERVER_SOCKET", raising=False)
        fleet = write_project(tmp_path / "project", fleet=PHONE.format("adb://"))
        assert main(["devices", "probe", "--project", str(fleet)]) == 2
        said = capsys.readouterr().err
        assert "fleet.toml: device[0].address: found 'adb://': it names no phone; `edgedeploy devices discover`" in said
        (fleet / "fleet.toml").unlink()
        assert main(["devices", "discover", "--project", str(fleet)]) == 0
    proposed = capsys.readouterr().out
    assert 'address = "adb://38DD"' in proposed
    assert 'address = "adb://91AX"' in proposed


def test_adbd_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A phone whose adbd is killed is exit code 3 and told to be made to listen again; once it does, all is well."""
    with a_phone() as own:
        monkeypatch.setenv("ADB_SERVER_SOCKET", own.environment["ADB_SERVER_SOCKET"])
        assert told(tmp_path, capsys, f"adb://{SERIAL}") == (0, "")
        own.kill_adbd()
        code, said = told(tmp_path, capsys, f"adb://{SERIAL}")
        assert (code, said.startswith("phone: ")) == (3, True)
        assert "check that the phone listens there (`adb tcpip" in said or "(offline): plug it in again" in said
        own.start_adbd()
        own.wait()
        assert told(tmp_path, capsys, f"adb://{SERIAL}") == (0, "")
