"""SSH servers for the tests: real ones, odd ones, and a proxy that can be cut like a cable."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from edgedeploy.records import Device
from edgedeploy.transport.address import Address
from edgedeploy.transport.ssh import SshTransport
from edgedeploy.transport.ssh_link import Deadlines
from tools.loopback_ssh import Kind, LoopbackServer

SERVER_KINDS: list[Kind] = ["openssh", "asyncssh"]

# Short, so that tests of what never comes are quick; long enough for a busy machine.
QUICK = Deadlines(connect_s=3, handshake_s=3, login_s=5, silence_s=2)


def ssh_device(server: LoopbackServer, root: Path, *, profile: str = "here", python: str | None = None) -> Device:
    """A device of a fleet for a loopback server."""
    return Device(
        name="ssh-board",
        profile=profile,
        address=f"ssh://{server.alias}",
        root=str(root),
        python=python,
        ssh_config=str(server.ssh_config),
    )


def transport_to(server: LoopbackServer, config: str | None = None, deadlines: Deadlines = QUICK) -> SshTransport:
    """A transport to the server, by its own configuration or by `config`, which is written beside it."""
    file = server.ssh_config
    if config is not None:
        file = server.folder / "other_config"
        file.write_text(config)
    return SshTransport("board", Address("ssh", server.alias), file, deadlines)


def client_config(server: LoopbackServer, **changes: str) -> str:
    """The server's own client configuration with some settings changed, or removed where empty."""
    lines = []
    for line in server.ssh_config.read_text().splitlines():
        key = line.split()[0]
        if key not in changes:
            lines.append(line)
    lines += [f"    {key} {value}" for key, value in changes.items() if value]
    return "\n".join(lines) + "\n"


class Cable:
    """A TCP proxy on loopback that can stop forwarding without closing anything, as a pulled cable does."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._cut = threading.Event()
        self._closing = threading.Event()
        self._cut_after: int | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []

    def cut(self) -> None:
        """Stop forwarding, in both directions and for ever."""
        self._cut.set()

    def cut_after(self, size_bytes: int) -> None:
        """Cut it as soon as so many more bytes went towards the server."""
        self._cut_after = size_bytes

    def _accept(self) -> None:
        while not self._closing.is_set():
            readable, _, _ = select.select([self._listener], [], [], 0.1)
            if readable:
                near, _ = self._listener.accept()
                thread = threading.Thread(target=self._forward, args=(near,), daemon=True)
                thread.start()
                self._threads.append(thread)

    def _forward(self, near: socket.socket) -> None:
        with near, socket.create_connection(("127.0.0.1", self._target)) as far:
            while not self._closing.is_set():
                if self._cut.is_set():
                    self._closing.wait(0.05)
                    continue
                for source in select.select([near, far], [], [], 0.05)[0]:
                    try:
                        data = source.recv(1 << 16)
                        (far if source is near else near).sendall(data)
                    except OSError:
                        return
                    if not data:
                        return
                    if source is near and self._cut_after is not None:
                        self._cut_after -= len(data)
                        if self._cut_after <= 0:
                            self._cut.set()

    @contextlib.contextmanager
    def plugged(self) -> Iterator[Cable]:
        """Forward connections until the block ends."""
        accepting = threading.Thread(target=self._accept, daemon=True)
        accepting.start()
        try:
            yield self
        finally:
            self._closing.set()
            accepting.join()
            for thread in self._threads:
                thread.join()
            self._listener.close()
