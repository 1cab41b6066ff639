"""SSH servers in this process, and such whose SFTP misbehaves in a way that a real disk or server sometimes does."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh

from edgedeploy.transport.address import Address
from edgedeploy.transport.ssh import SshTransport
from tests.servers import QUICK
from tools.loopback_ssh import make_key


class _OddSftp(asyncssh.SFTPServer):
    """Keeps nothing; from the second MiB on it does what `fault` says."""

    fault = ""

    def __init__(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        super().__init__(chan)
        self._channel = chan

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        return path

    def write(self, file_obj: object, offset: int, data: bytes) -> int:
        failing_from = {"failure": 1 << 20, "late failure": (3 << 20) - 32_768}.get(self.fault)
        if failing_from is not None and offset >= failing_from:
            raise asyncssh.SFTPFailure("Failure")
        if self.fault == "close" and offset >= 1 << 20:
            self._channel.get_connection().abort()
        return len(data)

    def close(self, file_obj: object) -> None:
        pass


@contextlib.contextmanager
def serving(kind: type[asyncssh.SSHServer], host_key: Path, **options: Any) -> Iterator[int]:
    """The port of a server in a thread of this process, whose sessions end at once; `options` are asyncssh's."""
    loop = asyncio.new_event_loop()
    connections: list[asyncssh.SSHServerConnection] = []

    class Server(kind):  # type: ignore[misc,valid-type]
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            connections.append(conn)

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=Server,
            server_host_keys=[str(host_key)],
            process_factory=lambda process: process.exit(0),
            **options,
        )

    listening = loop.run_until_complete(listen())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def stop() -> None:
        listening.close()
        for connection in connections:
            connection.abort()
            await connection.wait_closed()
        await listening.wait_closed()
        await asyncio.sleep(0.05)  # for the sockets, which are closed in a later turn of the loop

    try:
        yield listening.get_port()
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextlib.contextmanager
def odd_sftp(folder: Path, fault: str) -> Iterator[SshTransport]:
    """A transport to a server with the fault: "failure", "late failure" (the last write only), "close" or "none"."""
    make_key(folder / "host_key")
    (folder / "authorized_keys").write_text(make_key(folder / "client_key"))
    factory: Any = None if fault == "none" else type("Odd", (_OddSftp,), {"fault": fault})
    keys = str(folder / "authorized_keys")
    with serving(asyncssh.SSHServer, folder / "host_key", authorized_client_keys=keys, sftp_factory=factory) as port:
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host_key.pub').read_text()}")
        config = folder / "ssh_config"
        config.write_text(
            f"Host board\nHostName 127.0.0.1\nPort {port}\nUser tester\nIdentityFile {folder / 'client_key'}\n"
            f"IdentitiesOnly yes\nUserKnownHostsFile {folder / 'known_hosts'}\n"
        )
        yield SshTransport("board", Address("ssh", "board"), config, QUICK)
