from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from edgedeploy.errors import PlanError
from edgedeploy.transport.address import Address
from edgedeploy.transport.ssh_config import Host, resolve


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("edgedeploy.transport.ssh_config.SYSTEM_CONFIG", tmp_path / "system_config")
    (tmp_path / ".ssh").mkdir()
    return tmp_path


def route(home: Path, text: str, address: Address | None = None) -> tuple[Host, ...]:
    (home / "config").write_text(text)
    return resolve(address or Address("ssh", "board"), home / "config")


def test_without_any_configuration_the_defaults_hold(home: Path) -> None:
    (host,) = resolve(Address("ssh", "board"), None)
    assert (host.hostname, host.port, host.user) == ("board", 22, getpass.getuser())
    assert host.identity_files[0] == home / ".ssh" / "id_ed25519"
    assert host.known_hosts[0] == home / ".ssh" / "known_hosts"
    assert (host.use_agent, host.only_these_identities, host.proxy_command) == (True, False, None)


def test_all_settings_are_taken(home: Path) -> None:
    (host,) = route(
        home,
        "Host board\n HostName 10.0.0.7\n Port 2222\n User pi\n IdentityFile ~/.ssh/one\n IdentityFile two\n"
        ' IdentitiesOnly yes\n UserKnownHostsFile "/with space/a" ~/b.%h\n GlobalKnownHostsFile none\n'
        " HostKeyAlias alias\n ConnectTimeout 3\n IdentityAgent none\n",
    )
    assert host == Host(
        hostname="10.0.0.7",
        port=2222,
        user="pi",
        identity_files=(home / ".ssh" / "one", Path("two")),
        only_these_identities=True,
        use_agent=False,
        known_hosts=(Path("/with space/a"), home / "b.10.0.0.7"),
        host_key_name="alias",
        proxy_command=None,
        connect_timeout_s=3,
    )


def test_the_address_wins(home: Path) -> None:
    (host,) = route(home, "Host board\n Port 2222\n User pi\n", Address("ssh", "board", "root", 22))
    assert (host.port, host.user) == (22, "root")


def test_user_file_wins_over_the_system_file(home: Path) -> None:
    (home / "system_config").write_text("Port 7\nUser system\n")
    (home / ".ssh" / "config").write_text("Host other\n Port 1\nHost board\n Port 2222\n")
    (host,) = resolve(Address("ssh", "board"), None)
    assert (host.port, host.user) == (2222, "system")


def test_a_file_that_changed_is_read_anew(home: Path) -> None:
    for port in (2201, 2202):
        (board,) = route(home, f"Host board\n  Include more\n  Port {port}\n")
        assert (board.port, board.user) == (port, getpass.getuser())
    (home / ".ssh" / "more").write_text("User pi\n")
    (board,) = route(home, "Host board\n  Include more\n  Port 2202\n")
    assert (board.port, board.user) == (2202, "pi")


def test_included_files_are_read_in_their_place(home: Path) -> None:
    (home / ".ssh" / "lab.d").mkdir()
    (home / ".ssh" / "lab.d" / "1").write_text("Host board\n Port 2222\n")
    (home / ".ssh" / "lab.d" / "2").write_text("Host board\n Port 3333\n User two\n")
    (host,) = route(home, "Host board\n HostName first\n Include lab.d/*\n User late\nHost *\n User never\n")
    assert (host.hostname, host.port, host.user) == ("first", 2222, "two")


def test_file_that_includes_itself_is_refused(home: Path) -> None:
    with pytest.raises(PlanError, match="Include goes deeper than"):
        route(home, f"Include {home}/config\n")


def test_jump_hosts_in_order_each_with_its_settings(home: Path) -> None:
    text = (
        "Host board\n ProxyJump gate,me@rack:2200\n"
        "Host gate\n HostName gate.example\n User guard\n ProxyJump outer\n"
        "Host rack\n HostName rack.example\n Port 1\n ProxyJump outer\n"
    )
    hops = [(host.hostname, host.user, host.port) for host in route(home, text)]
    me = getpass.getuser()
    assert hops == [("outer", me, 22), ("gate.example", "guard", 22), ("rack.example", "me", 2200), ("board", me, 22)]


def test_jump_in_a_circle_is_refused(home: Path) -> None:
    with pytest.raises(PlanError, match="in a circle"):
        route(home, "Host board\n ProxyJump gate\nHost gate\n ProxyJump board\n")


def test_no_jump_where_it_says_none(home: Path) -> None:
    assert len(route(home, "Host board\n ProxyJump none\nHost *\n ProxyJump gate\n")) == 1


def test_proxy_command_is_filled_in(home: Path) -> None:
    (host,) = route(home, "Host board\n HostName h\n Port 5\n User u\n ProxyCommand nc -x proxy %h %p %r\n")
    assert host.proxy_command == "nc -x proxy h 5 u"


@pytest.mark.parametrize(
    ("value", "files"),
    [
        ('"/a b"', ["/a b"]),
        ('"/a b" "/c d"', ["/a b", "/c d"]),
        ("/a\t/b", ["/a", "/b"]),
        ('=  "/a b" /c', ["/a b", "/c"]),
        ("none", []),
    ],
)
def test_lists_of_files_may_be_quoted(home: Path, value: str, files: list[str]) -> None:
    (host,) = route(home, f"Host board\n UserKnownHostsFile {value}\n GlobalKnownHostsFile none\n")
    assert [str(file) for file in host.known_hosts] == files


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Host board\n Port http\n", "port is 'http', which is not a number"),
        ("Host\n", "Unparsable line Host"),
        ('Host board\n UserKnownHostsFile "/a\n', "No closing quotation"),
        ("Match exec\n", "Missing parameter"),
        ("Host board\n ProxyJump a:b:c\n", "ProxyJump for 'board': the address"),
    ],
)
def test_mistakes_name_the_file(home: Path, text: str, complaint: str) -> None:
    with pytest.raises(PlanError, match=f"^{home}/config: .*{complaint}"):
        route(home, text)
