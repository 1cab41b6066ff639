"""An SSH server for machines that have no sshd: `python -m tools.asyncssh_server FOLDER PORT [NAME=VALUE ...]`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import asyncssh


class _Forwarding(asyncssh.SSHServer):
    """Lets a client jump through this server, as an sshd does."""

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:  # noqa: ARG002
        return True


async def _serve(folder: Path, port: int, environment: Mapping[str, str]) -> None:
    async def session(process: asyncssh.SSHServerProcess[bytes]) -> None:
        child = await asyncio.create_subprocess_exec(
            os.environ.get("SHELL") or "/bin/sh",
            *(["-c", process.command] if process.command else []),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=Path.home(),
            env={**os.environ, **environment},
        )
        # not process.redirect: it ends the channel with the first stream that ends
        feeding = asyncio.create_task(_feed(process.stdin, child))
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            await asyncio.gather(_drain(child.stdout, process.stdout), _drain(child.stderr, process.stderr))
            code = await child.wait()
            process.exit(code if code >= 0 else 128 - code)
        finally:
            feeding.cancel()

    server = await asyncssh.listen(
        "127.0.0.1",
        port,
        server_factory=_Forwarding,
        server_host_keys=[str(folder / "host_key")],
        authorized_client_keys=str(folder / "authorized_keys"),
        process_factory=session,
        sftp_factory=asyncssh.SFTPServer,
        encoding=None,
    )
    await server.wait_closed()


async def _feed(source: asyncssh.SSHReader[bytes], child: asyncio.subprocess.Process) -> None:
    assert child.stdin is not None
    # a client that is gone is the end of the input, by which the command learns of it
    with suppress(asyncssh.Error, OSError):
        while data := await source.read(1 << 16):
            child.stdin.write(data)
            await child.stdin.drain()
    child.stdin.close()


async def _drain(source: asyncio.StreamReader, destination: asyncssh.SSHWriter[bytes]) -> None:
    while data := await source.read(1 << 16):
        with suppress(asyncssh.Error, OSError):
            destination.write(data)
            await destination.drain()


if __name__ == "__main__":
    settings = dict(pair.split("=", 1) for pair in sys.argv[3:])
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2]), settings))
