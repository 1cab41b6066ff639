from __future__ import annotations

from pathlib import Path

import pytest

from edgedeploy.errors import PlanError
from edgedeploy.records import Device
from edgedeploy.transport import open_transport
from edgedeploy.transport.address import Address, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("local:", Address("local")),
        ("ssh://board", Address("ssh", "board")),
        ("ssh://Rack-3/", Address("ssh", "Rack-3")),
        ("ssh://pi@board.lan:2222", Address("ssh", "board.lan", "pi", 2222)),
        ("ssh://pi@[fe80::1%25eth0]:22", Address("ssh", "fe80::1%25eth0", "pi", 22)),
        ("adb://0123456789ABCdef", Address("adb", "0123456789ABCdef")),
        ("adb://192.168.1.7:5555", Address("adb", "192.168.1.7:5555")),
        ("adb://[fe80::1%wlan0]:5555", Address("adb", "[fe80::1%wlan0]:5555")),
        ("adb://usb:1-4.2", Address("adb", "usb:1-4.2")),
        ("adb://model:Pixel_8?server-port=5038", Address("adb", "model:Pixel_8", server_port=5038)),
        ("adb://adb-38DD-x7._adb-tls-connect._tcp", Address("adb", "adb-38DD-x7._adb-tls-connect._tcp")),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text, "here") == address


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("board", "is not one; write `local:`, `ssh://"),
        ("", "is not one"),
        ("SSH://board", "is not one"),
        ("local:/tmp", "says too much"),
        ("ssh://", r"should be `ssh://\[user@\]host\[:port\]`"),
        ("ssh:board", "should be"),
        ("ssh://-oProxyCommand=id", "should be"),
        ("ssh://-l@board", "should be"),
        ("ssh://board:0", "should be"),
        ("ssh://board:99999", "cannot be read"),
        ("ssh://board:ssh", "cannot be read"),
        ("ssh://[::1", "cannot be read"),
        ("ssh://board/home/pi", "should be"),
        ("ssh://board?x=1", "should be"),
        ("ssh://two words", "should be"),
        ("adb://", "should be `adb://SERIAL`, `adb://HOST:PORT` or"),
        ("adb:38DD", "should be `adb://SERIAL`"),
        ("adb://-H", "should be `adb://SERIAL`"),
        ("adb://38DD/x", "should be `adb://SERIAL`"),
        ("adb://38DD?", "should be `adb://SERIAL`"),
        ("adb://38DD?port=1", "should be `adb://SERIAL`.*server-port=N"),
        ("adb://38DD?server-port=0", "should be"),
        ("adb://38DD?server-port=99999", "should be"),
        ("adb://38DD?server-port=x", "should be"),
    ],
)
def test_bad_addresses_say_what_to_write(text: str, complaint: str) -> None:
    with pytest.raises(PlanError, match=f"^device 'x': .*{complaint}"):
        parse_address(text, "device 'x'")


def test_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(PlanError, match="holds a password") as caught:
        parse_address("ssh://pi:hunter2@board", "device 'x'")
    assert "hunter2" not in str(caught.value)


def test_unknown_scheme_lists_the_known_ones() -> None:
    with pytest.raises(
        PlanError, match=r"^device 'x': .*'telnet', but edgedeploy knows only these: local, ssh, adb\.$"
    ):
        open_transport(Device("x", "pi4", "telnet://board"), Path())


def test_missing_ssh_config_is_named(tmp_path: Path) -> None:
    device = Device("x", "pi4", "ssh://board", ssh_config="lab/ssh_config")
    with (
        pytest.raises(PlanError, match=f"^{tmp_path}/lab/ssh_config: this ssh_config does not exist"),
        open_transport(device, tmp_path),
    ):
        pass
