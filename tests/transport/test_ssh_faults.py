"""What goes wrong with SSH ends in the right error, soon, and with a sentence that helps."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgedeploy.errors import AuthError, ConnectError, HostKeyError, TransferError, TransportError, TransportTimeout
from edgedeploy.transport.address import Address
from edgedeploy.transport.ssh import SshTransport
from edgedeploy.transport.ssh_link import Deadlines
from tests.odd_sftp import odd_sftp
from tests.servers import QUICK, Cable, client_config, transport_to
from tests.support.deadlines import soon
from tools.loopback_ssh import LoopbackServer, loopback_ssh, make_key


@contextlib.contextmanager
def listener() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.fault
def test_nobody_listens(server: LoopbackServer) -> None:
    """An address where nobody listens is a ConnectError soon, after a few tries."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with (
            soon(10),
            pytest.raises(
                ConnectError, match=rf"^board: cannot connect to 127\.0\.0\.1 port {port}: Connection refused"
            ),
            transport_to(server, client_config(server, Port=str(port))),
        ):
            pass


@pytest.mark.fault
def test_name_is_unknown() -> None:
    """A name that no resolver knows is a ConnectError that says so."""
    with (
        pytest.raises(ConnectError, match=r"the name 'no-such-board\.invalid' is not known"),
        SshTransport("board", Address("ssh", "no-such-board.invalid"), None, QUICK),
    ):
        pass


@pytest.mark.fault
def test_server_that_never_says_who_it_is(server: LoopbackServer) -> None:
    """A server that takes the connection and stays silent is given up within the deadline of the handshake."""
    with (
        listener() as port,
        soon(20),
        pytest.raises(ConnectError, match="does not answer as an SSH server does"),
        transport_to(server, client_config(server, Port=str(port)), Deadlines(1, 0.5, 1, 1)),
    ):
        pass


@pytest.mark.fault
def test_wrong_user_names_user_and_key(server: LoopbackServer) -> None:
    """A user that the board does not know is an AuthError that names user and key."""
    with (
        pytest.raises(
            AuthError, match=r"refuses the user nobody-here with every key tried \(.*client_key\).*ssh-copy-id"
        ),
        transport_to(server, client_config(server, User="nobody-here")),
    ):
        pass


@pytest.mark.fault
def test_wrong_key(server: LoopbackServer, tmp_path: Path) -> None:
    """A key that the board does not take is an AuthError that names it."""
    make_key(tmp_path / "other_key")
    with (
        pytest.raises(AuthError, match=r"every key tried \(.*other_key\)"),
        transport_to(server, client_config(server, IdentityFile=str(tmp_path / "other_key"))),
    ):
        pass


@pytest.mark.fault
def test_key_file_that_is_missing_and_one_that_is_none(server: LoopbackServer, tmp_path: Path) -> None:
    """A key file that is missing or no key is named in the AuthError."""
    with (
        pytest.raises(AuthError, match=r"none: neither .*absent_key"),
        transport_to(server, client_config(server, IdentityFile=str(tmp_path / "absent_key"), IdentityAgent="none")),
    ):
        pass
    (tmp_path / "garbage").write_text("not a key")
    with (
        pytest.raises(AuthError, match="garbage cannot be used"),
        transport_to(server, client_config(server, IdentityFile=str(tmp_path / "garbage"))),
    ):
        pass


@pytest.mark.fault
def test_key_with_a_passphrase_says_ssh_add(server: LoopbackServer, tmp_path: Path) -> None:
    """A key under a passphrase is an AuthError that says how to unlock it, and never a prompt."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    encryption = serialization.BestAvailableEncryption(b"secret")
    key = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, encryption
    )
    (tmp_path / "locked_key").write_bytes(key)
    with (
        pytest.raises(AuthError, match="locked_key has a passphrase: run `ssh-add"),
        transport_to(server, client_config(server, IdentityFile=str(tmp_path / "locked_key"))),
    ):
        pass


def test_second_key_is_tried(server: LoopbackServer, tmp_path: Path) -> None:
    make_key(tmp_path / "other_key")
    config = client_config(server, IdentityFile=f"{tmp_path / 'other_key'}\n    IdentityFile {server.client_key}")
    with transport_to(server, config) as board:
        assert board.run(["true"], timeout_s=10).exit_code == 0


def test_agent_lends_its_keys(server: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    socket_path = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", socket_path], stdout=subprocess.DEVNULL)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket_path))
        deadline = time.monotonic() + 10
        while not socket_path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        subprocess.run(["ssh-add", "-q", server.client_key], check=True)
        public = tmp_path / "only_public"
        Path(f"{public}.pub").write_bytes(Path(f"{server.client_key}.pub").read_bytes())
        named = client_config(server, IdentityFile=str(public))
        unnamed = client_config(server, IdentityFile=str(tmp_path / "absent"), IdentitiesOnly="no")
        for config in (named, unnamed):
            with transport_to(server, config) as board:
                assert board.run(["true"], timeout_s=10).exit_code == 0
        for config in (unnamed.replace("IdentitiesOnly no", "IdentitiesOnly yes"), named + "    IdentityAgent none\n"):
            with pytest.raises(AuthError), transport_to(server, config):
                pass
    finally:
        agent.terminate()
        agent.wait()


@pytest.mark.fault
def test_unknown_host_key_tells_its_fingerprint(server: LoopbackServer, tmp_path: Path) -> None:
    """A host that is not known is refused whatever ssh_config says, and nothing is added to known_hosts."""
    (tmp_path / "empty").touch()
    fingerprint = subprocess.run(
        ["ssh-keygen", "-lf", server.folder / "host_key.pub"], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    with (
        pytest.raises(HostKeyError) as caught,
        transport_to(
            server, client_config(server, UserKnownHostsFile=str(tmp_path / "empty"), StrictHostKeyChecking="no")
        ),
    ):
        pass
    message = str(caught.value)
    assert fingerprint in message
    assert f"ssh-keyscan -p {server.port} 127.0.0.1 >> {tmp_path / 'empty'}" in message
    assert (tmp_path / "empty").read_text() == ""


@pytest.mark.fault
def test_changed_host_key_is_a_hard_stop(server: LoopbackServer, tmp_path: Path) -> None:
    """A host key that has changed stops everything before the login."""
    known = impostor(server, tmp_path)
    with (
        pytest.raises(HostKeyError, match=r"HAS CHANGED: it shows SHA256:\S+ .* has SHA256:\S+ .*ssh-keygen -f .* -R"),
        transport_to(server, client_config(server, UserKnownHostsFile=str(known))),
    ):
        pass


@pytest.mark.fault
def test_changed_host_key_behind_a_jump_host_and_of_one(server: LoopbackServer, tmp_path: Path) -> None:
    """A changed host key stops everything behind a jump host too, and where it is the jump host's."""
    known = impostor(server, tmp_path)
    good, bad = server.known_hosts, known
    for jump_knows, board_knows in ((good, bad), (bad, good)):
        with (
            pytest.raises(HostKeyError, match="HAS CHANGED"),
            transport_to(server, jumping_config(server, jump_knows, board_knows)),
        ):
            pass
    with transport_to(server, jumping_config(server, good, good)) as board:
        assert board.run(["echo", "far"], timeout_s=10).stdout == b"far\n"


def test_jump_over_two_hosts(server: LoopbackServer) -> None:
    config = jumping_config(server, server.known_hosts, server.known_hosts).replace(
        "ProxyJump jump", f"ProxyJump jump,{server.user}@second:{server.port}"
    )
    config += "Host second\n" + "\n".join(client_config(server).splitlines()[1:]).replace(
        f"Port {server.port}", "Port 1"
    )
    with transport_to(server, config) as board:
        assert board.run(["echo", "very far"], timeout_s=10).stdout == b"very far\n"


@pytest.mark.fault
def test_jump_host_that_cannot_reach_the_board(server: LoopbackServer) -> None:
    """A jump host that cannot reach the board is told from one that cannot be reached."""
    config = jumping_config(server, server.known_hosts, server.known_hosts)
    config = config.replace(f"Port {server.port}", "Port 1", 1)
    with pytest.raises(ConnectError, match="the jump host cannot reach 127"), transport_to(server, config):
        pass


def test_proxy_command_carries_the_connection(server: LoopbackServer) -> None:
    script = (
        "import os, socket, sys, threading\n"
        f"s = socket.create_connection(('127.0.0.1', {server.port}))\n"
        "def up():\n"
        "    while data := os.read(0, 65536): s.sendall(data)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while data := s.recv(65536): os.write(1, data)\n"
    )
    file = server.folder / "proxy.py"
    file.write_text(script)
    config = client_config(server, Port="1", ProxyCommand=f"{sys.executable} {file}", HostKeyAlias="the-board")
    known = server.folder / "alias_hosts"
    known.write_text("the-board " + server.known_hosts.read_text().split(None, 1)[1])
    config = config.replace(str(server.known_hosts), str(known))
    with transport_to(server, config) as board:
        assert board.run(["echo", "proxied"], timeout_s=10).stdout == b"proxied\n"


@pytest.mark.fault
def test_proxy_command_that_fails(server: LoopbackServer) -> None:
    """A proxy command that ends at once is a ConnectError soon."""
    with soon(20), pytest.raises(ConnectError), transport_to(server, client_config(server, ProxyCommand="false")):
        pass


@pytest.mark.fault
def test_cut_cable_ends_a_put_within_its_deadline(server: LoopbackServer, tmp_path: Path) -> None:
    """A cable cut in the middle of a transfer ends it after the limit of silence, not after that of the transfer."""
    (tmp_path / "source").write_bytes(bytes(24 << 20))
    with Cable(server.port).plugged() as cable, transport_to(server, through(server, cable)) as board:
        cable.cut_after(2 << 20)
        with soon(9), pytest.raises(TransportTimeout, match="nothing was heard for 2 s"):
            board.put(tmp_path / "source", str(tmp_path / "part"), timeout_s=60)
        with soon(9), pytest.raises(TransportError):
            board.run(["true"], timeout_s=5)


@pytest.mark.fault
def test_cut_cable_ends_a_command(server: LoopbackServer) -> None:
    """A cable cut under a command ends it after the limit of silence."""
    with Cable(server.port).plugged() as cable, transport_to(server, through(server, cable)) as board:
        threading.Timer(0.5, cable.cut).start()
        with soon(9), pytest.raises(TransportTimeout, match="nothing was heard for 2 s during `sleep`"):
            board.run(["sleep", "60"], timeout_s=60)


def test_long_silent_command_is_not_a_cut_cable(server: LoopbackServer) -> None:
    with transport_to(server, deadlines=Deadlines(3, 3, 5, 0.8)) as board:
        assert board.run(["sh", "-c", "sleep 2.5; echo done"], timeout_s=20).stdout == b"done\n"


def kill_sessions(server: LoopbackServer) -> None:
    """Kill every process of the server that holds a connection; its listener lives on where it is another one."""
    family = psutil.Process(server.pid).children(recursive=True)
    for process in [one for one in family if one.name().startswith("sshd")] or [psutil.Process(server.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.mark.fault
def test_server_killed_during_a_transfer(tmp_path: Path) -> None:
    """An sshd killed in the middle of a transfer is a TransferError at once."""
    (tmp_path / "source").write_bytes(bytes(64 << 20))
    with (
        loopback_ssh(tmp_path / "server") as server,
        transport_to(server) as board,
        soon(10),
        pytest.raises(TransferError, match="link was lost"),
    ):
        board.put(tmp_path / "source", "/dev/null", timeout_s=60, progress=lambda _: kill_sessions(server))


@pytest.mark.fault
def test_server_killed_during_a_command(tmp_path: Path) -> None:
    """An sshd killed under a command is a ConnectError at once."""
    with loopback_ssh(tmp_path / "server") as server, transport_to(server) as board:
        threading.Timer(0.5, kill_sessions, [server]).start()
        with soon(10), pytest.raises(ConnectError, match="link was lost"):
            board.run(["sleep", "20"], timeout_s=30)


@pytest.mark.fault
@pytest.mark.parametrize("fault", ["failure", "late failure", "close"])
def test_board_that_cannot_write(tmp_path: Path, fault: str) -> None:
    """A disk that fills up at any write, the last one too, or a session that ends is a TransferError at once."""
    (tmp_path / "source").write_bytes(bytes(3 << 20))
    with odd_sftp(tmp_path, fault) as transport, transport as board, soon(10), pytest.raises(TransferError) as caught:
        board.put(tmp_path / "source", "/part", timeout_s=30)
    assert ("link was lost" if fault == "close" else "its disk may be full") in str(caught.value)


@pytest.mark.fault
def test_server_without_sftp(tmp_path: Path) -> None:
    """A server without SFTP is a TransferError that says what to install."""
    (tmp_path / "source").write_bytes(b"x")
    with (
        odd_sftp(tmp_path, "none") as transport,
        transport as board,
        pytest.raises(TransferError, match="offers no SFTP"),
    ):
        board.put(tmp_path / "source", "/part", timeout_s=30)


def impostor(server: LoopbackServer, folder: Path) -> Path:
    """A known_hosts file in which the server has another key."""
    other = make_key(folder / "impostor")
    known = folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{server.port} {other}\n")
    return known


def jumping_config(server: LoopbackServer, jump_knows: Path, board_knows: Path) -> str:
    board = client_config(server, UserKnownHostsFile=str(board_knows), ProxyJump="jump")
    jump = client_config(server, UserKnownHostsFile=str(jump_knows)).replace(f"Host {server.alias}", "Host jump")
    return board + jump


def through(server: LoopbackServer, cable: Cable) -> str:
    known = server.folder / "cable_hosts"
    known.write_text(server.known_hosts.read_text().replace(str(server.port), str(cable.port)))
    return client_config(server, Port=str(cable.port), UserKnownHostsFile=str(known))
