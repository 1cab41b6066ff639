from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgedeploy.errors import ConnectError, TransportError
from edgedeploy.records import Device
from edgedeploy.transport import open_transport
from edgedeploy.transport.adb import AdbTransport
from edgedeploy.transport.adb_devices import Listed, find, is_network, matching, parse_devices
from edgedeploy.transport.adb_server import AdbServer
from edgedeploy.transport.adb_shell import ended_v1, ended_v2
from tests.odd_adb import listens, listing_server
from tests.phones import a_phone, transport_to_phone
from tools.adbd import SERIAL, Phone
from tools.loopback_ssh import free_port

LISTED = """\
* daemon not running; starting now at tcp:5038
* daemon started successfully
List of devices attached
38DD           device usb:1-2 product:shiba model:Pixel_8 device:shiba transport_id:1
192.168.1.7:5555 offline
91AX           no permissions (user in plugdev group; are your udev rules wrong?); see [http://x.y/z] usb:1-4
emulator-5554\tunauthorized transport_id:3

"""


def test_list_of_devices_is_read() -> None:
    assert parse_devices(LISTED) == (
        Listed("38DD", "device", ("usb:1-2", "product:shiba", "model:Pixel_8", "device:shiba", "transport_id:1")),
        Listed("192.168.1.7:5555", "offline"),
        Listed(
            "91AX",
            "no permissions (user in plugdev group; are your udev rules wrong?); see [http://x.y/z]",
            ("usb:1-4",),
        ),
        Listed("emulator-5554", "unauthorized", ("transport_id:3",)),
    )


@pytest.mark.parametrize("text", ["", "error: protocol fault", "List of devices attached\n\n", "x device\n"])
def test_no_list_is_no_device(text: str) -> None:
    assert parse_devices(text) == ()


@pytest.mark.parametrize("wanted", ["38DD", "usb:1-2", "model:Pixel_8", "device:shiba"])
def test_phone_is_found_by_serial_or_qualifier(wanted: str) -> None:
    assert find("board", wanted, parse_devices(LISTED)).serial == "38DD"


@pytest.mark.parametrize("wanted", ["38D", "Pixel_8", "1-2", "usb:1-22"])
def test_part_of_a_name_is_no_name(wanted: str) -> None:
    assert matching(wanted, parse_devices(LISTED)) == []


@pytest.mark.parametrize(
    ("serial", "network"),
    [
        *(("192.168.1.7:5555", True), ("phone.lan:41037", True), ("[fe80::1]:5555", True)),
        *(("38DD", False), ("usb:1-4", False), ("usb:14", False), ("model:8", False), ("emulator-5554", False)),
    ],
)
def test_what_must_be_connected_to(serial: str, network: bool) -> None:
    assert is_network(serial) is network


@pytest.mark.parametrize("end", [ended_v1, ended_v2])
def test_without_its_mark_a_command_did_not_end(end: object) -> None:
    for said in (b"", b"edgedeploy-end-aa:0", b"\nedgedeploy-end-bb:0\n", b"\nedgedeploy-end-aa:\n"):
        found = ended_v1(said, "aa") if end is ended_v1 else ended_v2(b"", said, "aa")
        assert found is None


@pytest.mark.parametrize(
    ("environment", "port", "spec"),
    [
        ({}, None, "tcp:localhost:5037"),
        ({"ANDROID_ADB_SERVER_PORT": "5039"}, None, "tcp:localhost:5039"),
        ({"ADB_SERVER_SOCKET": "tcp:lab:5037", "ANDROID_ADB_SERVER_PORT": "5039"}, None, "tcp:lab:5037"),
        ({"ADB_SERVER_SOCKET": "tcp:lab:5037", "ANDROID_ADB_SERVER_PORT": "5039"}, 5038, "tcp:localhost:5038"),
    ],
)
def test_server_is_where_the_user_says(environment: Mapping[str, str], port: int | None, spec: str) -> None:
    assert AdbServer("board", port, environment).spec == spec


def test_fleet_names_the_servers_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADB_SERVER_SOCKET", "tcp:elsewhere:1")
    for device in (
        Device("x", "pixel-8", "adb://38DD", adb_server_port=5040),
        Device("x", "pixel-8", "adb://38DD?server-port=5040"),
    ):
        transport = open_transport(device, Path())
        assert isinstance(transport, AdbTransport)
        assert transport._server.spec == "tcp:localhost:5040"


@pytest.fixture
def environment(tmp_path: Path) -> Mapping[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}


def test_server_of_ours_ends_with_its_last_user(environment: Mapping[str, str]) -> None:
    port = free_port()
    first, second = (AdbServer("board", port, environment) for _ in range(2))
    first.acquire()
    second.acquire()
    assert (first.fresh, second.fresh) == (True, False)
    first.release()
    assert listens(port)
    second.release()
    assert not listens(port)
    second.release()  # once more is no error


def test_server_of_ours_ends_with_the_last_process(environment: Mapping[str, str]) -> None:
    port = free_port()
    script = (
        "import sys; from edgedeploy.transport.adb_server import AdbServer\n"
        f"server = AdbServer('other', {port}); server.acquire(); print('up', flush=True); sys.stdin.read()\n"
        "server.release()"
    )
    server = AdbServer("board", port, environment)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **environment}
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"up\n"
        server.acquire()
        other.stdin.close()
        assert other.wait(20) == 0
    assert listens(port)
    server.release()
    assert not listens(port)


def test_several_that_need_a_server_at_once_start_one(environment: Mapping[str, str]) -> None:
    port, together = free_port(), threading.Barrier(8)

    def use(_: int) -> tuple[int, str]:
        server = AdbServer("board", port, environment)
        together.wait(20)
        server.acquire()
        try:
            return server.call("devices")
        finally:
            together.wait(20)
            server.release()

    with ThreadPoolExecutor(8) as pool:
        assert {*pool.map(use, range(8))} == {(0, "List of devices attached\n\n")}
    assert not listens(port)


def test_server_that_was_there_stays(environment: Mapping[str, str]) -> None:
    with listing_server("") as port:
        with pytest.raises(ConnectError), AdbTransport("board", "38DD", port, environment=environment):
            pass
        assert listens(port)


def test_what_is_not_open_says_so(environment: Mapping[str, str], phone: Phone) -> None:
    board = transport_to_phone(phone)
    with board:
        pass
    with pytest.raises(TransportError, match=r"^board: the connection is not open"):
        board.run(["true"], timeout_s=5)


def test_several_transports_to_one_phone_at_once() -> None:
    def one(number: int) -> bytes:
        with transport_to_phone(own) as board:
            return board.run(["echo", str(number)], timeout_s=20).stdout

    with a_phone() as own, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(16))) == [f"{number}\n".encode() for number in range(16)]


def test_phone_is_found_though_the_variable_names_the_server(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in phone.environment.items():
        monkeypatch.setenv(name, value)
    with open_transport(Device("x", "pixel-8", f"adb://{SERIAL}"), Path()) as board:
        assert board.run(["echo", "x"], timeout_s=10).stdout == b"x\n"


def test_files_have_the_time_of_their_arrival(phone: Phone, tmp_path: Path) -> None:
    source, destination = tmp_path / "source", tmp_path / "destination"
    source.touch()
    os.utime(source, (0, 0))
    with transport_to_phone(phone) as board:
        board.put(source, str(destination), timeout_s=10)
    assert destination.stat().st_mtime > 1e9, "what clears away old files would take it for one"
