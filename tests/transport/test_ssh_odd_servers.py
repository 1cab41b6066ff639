"""Servers that stall, are swamped, or never stop talking end in the right error within a deadline."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from pathlib import Path

import asyncssh
import pytest

from edgedeploy.errors import ConnectError, TransferError, TransportError, TransportTimeout
from edgedeploy.transport.ssh_link import Deadlines
from tests.odd_sftp import serving
from tests.servers import SERVER_KINDS, Cable, client_config, transport_to
from tests.support.deadlines import soon
from tests.transport.test_ssh_faults import kill_sessions, through
from tools.loopback_ssh import LoopbackServer, loopback_ssh

IMPATIENT = Deadlines(connect_s=1, handshake_s=1.5, login_s=1.5, silence_s=2)


@pytest.mark.fault
@pytest.mark.parametrize("size", [1, 30, 1000, 1200])
def test_cable_cut_while_connecting(server: LoopbackServer, size: int) -> None:
    """A cable cut within the banner, the key exchange or the login ends connecting within its deadlines."""
    with Cable(server.port).plugged() as cable:
        cable.cut_after(size)
        with (
            soon(15),
            pytest.raises(TransportError),
            transport_to(server, through(server, cable), IMPATIENT) as board,
        ):
            board.run(["true"], timeout_s=3)


class _Undecided(asyncssh.SSHServer):
    """Never says whether it takes a key."""

    def public_key_auth_supported(self) -> bool:
        return True

    async def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        await asyncio.sleep(30)
        return False


class _Hasty(asyncssh.SSHServer):
    """Ends the connection in the middle of the login."""

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        raise asyncssh.DisconnectError(asyncssh.DISC_BY_APPLICATION, "the board reboots")


@pytest.mark.fault
@pytest.mark.parametrize("kind", [_Undecided, _Hasty])
def test_server_that_stalls_or_ends_at_the_login(
    server: LoopbackServer, tmp_path: Path, kind: type[asyncssh.SSHServer]
) -> None:
    """A server that never answers the login, or hangs up during it, is a TransportError within the deadline."""
    with serving(kind, server.folder / "host_key") as port:
        known = tmp_path / "known_hosts"
        known.write_text(server.known_hosts.read_text().replace(str(server.port), str(port)))
        config = client_config(server, Port=str(port), UserKnownHostsFile=str(known))
        with soon(15), pytest.raises(TransportError) as caught, transport_to(server, config, IMPATIENT):
            pass
    assert isinstance(caught.value, TransportTimeout) == (kind is _Undecided)


@pytest.mark.fault
@pytest.mark.parametrize("free_after_s", [0.5, 60.0])
def test_server_with_too_many_logins_at_once(tmp_path: Path, free_after_s: float) -> None:
    """A login that sshd drops for MaxStartups is tried again after a while, and given up where that does not help."""
    settings = {"MaxStartups": "1:100:1"}
    with loopback_ssh(tmp_path / "server", kind="openssh", settings=settings) as server:
        time.sleep(0.2)  # for the login that showed that it is up to be counted out
        hog = socket.create_connection((server.host, server.port))
        assert hog.recv(4) == b"SSH-"
        timer = threading.Timer(free_after_s, hog.close)
        timer.start()
        try:
            if free_after_s < 1:
                with soon(10), transport_to(server) as board:
                    assert board.run(["echo", "in"], timeout_s=10).stdout == b"in\n"
            else:
                with soon(15), pytest.raises(ConnectError), transport_to(server):
                    pass
        finally:
            timer.cancel()
            hog.close()


@pytest.mark.fault
@pytest.mark.parametrize("stream", ["1", "2"])
def test_command_that_writes_without_end(server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, stream: str) -> None:
    """A command that floods one of its streams is stopped at a limit, and the link serves the next one."""
    monkeypatch.setattr("edgedeploy.transport.ssh.MAX_STREAM_BYTES", 4 << 20)
    with transport_to(server) as board:
        with soon(20), pytest.raises(TransferError, match="wrote more than 4 MiB and was stopped"):
            board.run(["sh", "-c", f"exec cat /dev/zero >&{stream}"], timeout_s=60)
        assert board.run(["echo", "again"], timeout_s=10).stdout == b"again\n"


@pytest.mark.fault
def test_command_is_never_run_twice(tmp_path: Path) -> None:
    """A command under which the link breaks is not tried again: it may have had an effect."""
    note = tmp_path / "note"
    with loopback_ssh(tmp_path / "server", kind=SERVER_KINDS[0]) as server, transport_to(server) as board:
        threading.Timer(0.7, kill_sessions, [server]).start()
        with soon(10), pytest.raises(ConnectError, match="link was lost"):
            board.run(["sh", "-c", f"echo once >> {note}; sleep 20"], timeout_s=30)
    assert note.read_text() == "once\n"
