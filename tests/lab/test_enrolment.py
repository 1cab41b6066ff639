"""A board gets into the fleet only with a host key that somebody confirmed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedeploy.errors import BoardError, ConnectError, HostKeyError, OfferedKey, PlanError
from edgedeploy.lab.enrolment import enrol
from edgedeploy.plan import load_fleet
from edgedeploy.transport.known_hosts import fingerprint
from tests.servers import SERVER_KINDS, client_config
from tools.adbd import SERIAL, Phone
from tools.loopback_ssh import LoopbackServer, loopback_ssh, make_key


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackServer]:
    with loopback_ssh(tmp_path_factory.mktemp("enrol"), kind=SERVER_KINDS[0]) as server:
        yield server


@pytest.fixture
def known(tmp_path: Path) -> Path:
    return tmp_path / "ssh" / "known_hosts"


@pytest.fixture
def table(server: LoopbackServer, tmp_path: Path, known: Path) -> dict[str, str]:
    config = tmp_path / "ssh_config"
    config.write_text(client_config(server, UserKnownHostsFile=str(known)))
    return {"name": "desk", "address": f"ssh://{server.alias}", "ssh_config": str(config)}


def test_a_confirmed_key_is_known_from_then_on(
    server: LoopbackServer, tmp_path: Path, known: Path, table: dict[str, str]
) -> None:
    asked: list[OfferedKey] = []

    def confirm(key: OfferedKey) -> bool:
        asked.append(key)
        return True

    enrolled = enrol(tmp_path, table, confirm)
    assert enrolled.keys == tuple(asked)
    assert (enrolled.machine, enrolled.table["profile"]) == ("x86_64", "x86-64")
    assert known.read_text() == f"[127.0.0.1]:{server.port} ssh-ed25519 {server.known_hosts.read_text().split()[2]}\n"
    assert (known.stat().st_mode & 0o777, known.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert load_fleet(tmp_path).device("desk").profile == "x86-64"
    enrol(tmp_path, table | {"name": "again"}, lambda key: pytest.fail("it is known"))
    assert fingerprint(asked[0].blob).startswith("SHA256:")


@pytest.mark.fault
def test_a_key_that_nobody_confirms_is_not_enrolled(tmp_path: Path, known: Path, table: dict[str, str]) -> None:
    """Without a yes neither known_hosts nor fleet.toml is touched."""
    with pytest.raises(HostKeyError, match="is not known yet"):
        enrol(tmp_path, table, lambda key: False)
    assert not known.exists()
    assert not (tmp_path / "fleet.toml").exists()


@pytest.mark.fault
def test_a_changed_key_is_never_offered(
    server: LoopbackServer, tmp_path: Path, known: Path, table: dict[str, str]
) -> None:
    """A board whose key has changed is refused however eagerly keys are confirmed."""
    known.parent.mkdir()
    known.write_text(f"[127.0.0.1]:{server.port} {make_key(tmp_path / 'other')}\n")
    with pytest.raises(HostKeyError, match="HAS CHANGED"):
        enrol(tmp_path, table, lambda key: True)
    assert not (tmp_path / "fleet.toml").exists()


@pytest.mark.fault
def test_keys_of_jump_host_and_board_are_confirmed_one_by_one(
    server: LoopbackServer, tmp_path: Path, known: Path, table: dict[str, str]
) -> None:
    """Behind a jump host each unknown key is shown, and a no to the second one keeps the board out."""
    config = Path(table["ssh_config"])
    jump = config.read_text().replace(f"Host {server.alias}", "Host jump") + "    HostKeyAlias the-jump\n"
    config.write_text(config.read_text() + "    ProxyJump jump\n" + jump)
    asked: list[str] = []

    def only_the_jump(key: OfferedKey) -> bool:
        asked.append(key.name)
        return key.name == "the-jump"

    with pytest.raises(HostKeyError, match="is not known yet"):
        enrol(tmp_path, table, only_the_jump)
    assert asked == ["the-jump", f"[127.0.0.1]:{server.port}"]
    assert not (tmp_path / "fleet.toml").exists()
    assert enrol(tmp_path, table, lambda key: True).machine == "x86_64"
    assert len(known.read_text().splitlines()) == 2


def test_phone_is_added_as_the_kind_that_it_is_said_to_be(
    phone: Phone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADB_SERVER_SOCKET", phone.environment["ADB_SERVER_SOCKET"])
    table = {"name": "phone", "address": f"adb://{SERIAL}"}
    with pytest.raises(PlanError, match="of no known kind; name one with --profile"):
        enrol(tmp_path, table, lambda key: pytest.fail("a phone has no host key"))
    enrolled = enrol(tmp_path, table | {"profile": "x86-64"}, lambda key: pytest.fail("a phone has no host key"))
    assert enrolled.machine == "x86_64"
    assert load_fleet(tmp_path).device("phone").address == f"adb://{SERIAL}"


@pytest.mark.parametrize(
    ("change", "error", "complaint"),
    [
        ({"profile": "pi5"}, BoardError, "is a x86_64 machine but the profile pi5 is for aarch64"),
        ({"profile": "pi55"}, PlanError, "no device profile"),
        ({"address": "ssh://127.0.0.1:1", "ssh_config": ""}, ConnectError, "cannot connect"),
        ({"name": "-x"}, PlanError, "name"),
    ],
)
def test_a_board_that_does_not_fit_is_not_added(
    tmp_path: Path, table: dict[str, str], change: dict[str, str], error: type[Exception], complaint: str
) -> None:
    wanted = {key: value for key, value in (table | change).items() if value}
    with pytest.raises(error, match=complaint):
        enrol(tmp_path, wanted, lambda key: True)
    assert not (tmp_path / "fleet.toml").exists()
