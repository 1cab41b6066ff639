"""An authenticated SSH connection, perhaps through jump hosts, that knows when it last heard from the other side."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgedeploy.errors import ConnectError, TransportTimeout
from edgedeploy.transport.known_hosts import check_host_key, host_pattern, known_keys
from edgedeploy.transport.ssh_auth import authenticate

if TYPE_CHECKING:
    import paramiko

    from edgedeploy.transport.ssh_config import Host

# It logs whole tracebacks of what is translated here, and Python prints them where no logging is set up.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Limits in seconds for one host: TCP connection, SSH handshake, login, and silence of a link that should talk."""

    connect_s: float = 10.0
    handshake_s: float = 15.0
    login_s: float = 20.0
    silence_s: float = 30.0

    @property
    def total_s(self) -> float:
        """The longest that reaching one host can take."""
        return self.connect_s + self.handshake_s + self.login_s


class Link:
    """A chain of SSH connections, each through the one before; `transport` is the last one's.

    `connect` is to be called once, in a thread that may be given up: `close` from another thread ends it.
    """

    def __init__(self, board: str, deadlines: Deadlines) -> None:
        self._board = board
        self._deadlines = deadlines
        self._hops: list[tuple[paramiko.Transport, _Heard]] = []
        self._proxies: list[subprocess.Popen[bytes]] = []
        self._closed = threading.Event()

    @property
    def transport(self) -> paramiko.Transport:
        """The connection to the board itself."""
        return self._hops[-1][0]

    @property
    def alive(self) -> bool:
        """Whether the connection stands, as far as is known."""
        return bool(self._hops) and not self._closed.is_set() and self.transport.is_active()

    def ended(self) -> bool:
        """Whether the connection has ended, or is just about to: its channels are closed before it is."""
        self.transport.join(0.5)
        return not self.alive

    def silent_s(self) -> float:
        """Seconds since the last byte from the board; each quarter of the silence limit it is asked for one."""
        return time.monotonic() - self._hops[-1][1].last_heard if self._hops else 0.0

    def connect(self, hosts: Sequence[Host]) -> None:
        """Log in to every host in turn. Raises ConnectError, AuthError, HostKeyError or TransportTimeout."""
        for host in hosts:
            self._connect(host, via=self._hops[-1][0] if self._hops else None)
        threading.Thread(target=self._keep_hearing, name=f"ssh-pulse-{self._board}", daemon=True).start()

    def close(self) -> None:
        """End everything, from the board back to here; may be called at any moment and more than once."""
        self._closed.set()
        for transport, heard in reversed(self._hops):
            transport.close()
            heard.close()  # paramiko leaves the socket open when the other side ended first
        for proxy in self._proxies:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(proxy.pid, signal.SIGKILL)
            proxy.wait()

    def _connect(self, host: Host, via: paramiko.Transport | None) -> None:
        import paramiko

        place = f"{host.hostname} port {host.port}"
        heard = _Heard(self._open_socket(host, via, place))
        # not its ServiceRequestingTransport, which now and then misses the answer to a login and waits for another
        transport = paramiko.Transport(heard)  # type: ignore[arg-type]  # all that it needs of a socket
        self._hops.append((transport, heard))
        if self._closed.is_set():
            self.close()
        transport.banner_timeout = transport.handshake_timeout = self._deadlines.handshake_s
        transport.auth_timeout = transport.channel_timeout = self._deadlines.login_s
        name = host.host_key_name or host_pattern(host.hostname, host.port)
        keys = known_keys(host.known_hosts, name)
        _prefer(transport, [key.key_type for key in keys if not key.revoked])
        try:
            # a little later than the banner's own limit, which has the better reason to give
            transport.start_client(timeout=self._deadlines.handshake_s + 0.5)
            key = transport.get_remote_server_key()
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise ConnectError(self._board, _handshake_failure(place, error)) from error
        check_host_key(self._board, name, key.get_name(), key.asbytes(), keys, host.known_hosts)
        try:
            authenticate(self._board, transport, host)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise ConnectError(
                self._board, f"{place} ended the connection during the login as {host.user}: {_text(error)}."
            ) from error

    def _open_socket(self, host: Host, via: paramiko.Transport | None, place: str) -> Any:
        import paramiko

        timeout_s = host.connect_timeout_s or self._deadlines.connect_s
        if via is not None:
            try:
                return via.open_channel("direct-tcpip", (host.hostname, host.port), ("127.0.0.1", 0), timeout=timeout_s)
            except (paramiko.SSHException, EOFError, OSError) as error:
                raise ConnectError(
                    self._board, f"the jump host cannot reach {place}: {_text(error)}; is the board switched on?"
                ) from error
        if host.proxy_command is not None:
            ours, theirs = socket.socketpair()
            with theirs:
                self._proxies.append(
                    subprocess.Popen(
                        ["/bin/sh", "-c", f"exec {host.proxy_command}"],
                        stdin=theirs.fileno(),
                        stdout=theirs.fileno(),
                        stderr=subprocess.DEVNULL,
                        start_new_session=True,
                    )
                )
            return ours
        try:
            connection = socket.create_connection((host.hostname, host.port), timeout_s)
        except socket.gaierror as error:
            raise ConnectError(
                self._board, f"the name {host.hostname!r} is not known to this network ({error.strerror})."
            ) from error
        except TimeoutError as error:
            raise ConnectError(
                self._board, f"{place} did not answer within {timeout_s:g} s; is the board switched on?"
            ) from error
        except OSError as error:
            raise ConnectError(
                self._board,
                f"cannot connect to {place}: {error.strerror or error}; is the board switched on, and its SSH server?",
            ) from error
        _tune(connection, self._deadlines.silence_s)
        return connection

    def _keep_hearing(self) -> None:
        """Ask for an answer now and then, so that silence means a dead link and not a long command."""
        import paramiko

        while not self._closed.wait(self._deadlines.silence_s / 4) and self.transport.is_active():
            try:
                self.transport.global_request("keepalive@openssh.com", wait=True)
            except (paramiko.SSHException, EOFError, OSError):
                return  # whoever uses the link finds out for itself


class _Heard:
    """A socket that remembers when it last gave something; all that paramiko wants of one."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.last_heard = time.monotonic()
        self._closed = False
        # A server sends the end of a command in several small packets, and holds back each one until that before it
        # is acknowledged, which Linux puts off for 40 ms unless it is told again and again not to.
        self._at_once = getattr(socket, "TCP_QUICKACK", None) if _is_tcp(connection) else None

    def recv(self, size: int) -> bytes:
        data: bytes = self._connection.recv(size)
        self.last_heard = time.monotonic()
        if self._at_once is not None:
            with contextlib.suppress(OSError):  # another thread may have closed it
                self._connection.setsockopt(socket.IPPROTO_TCP, self._at_once, 1)
        return data

    def send(self, data: bytes) -> int:
        sent: int = self._connection.send(data)
        return sent

    def settimeout(self, timeout_s: float | None) -> None:
        self._connection.settimeout(timeout_s)

    def getpeername(self) -> Any:
        return self._connection.getpeername()

    def close(self) -> None:
        self._closed = True
        self._connection.close()


def _is_tcp(connection: Any) -> bool:
    return isinstance(connection, socket.socket) and connection.family in (socket.AF_INET, socket.AF_INET6)


def _tune(connection: socket.socket, silence_s: float) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    interval_s = max(1, int(silence_s / 4))
    # absent on some systems; the silence limit still holds there
    for option, value in (
        ("TCP_KEEPIDLE", interval_s),
        ("TCP_KEEPINTVL", interval_s),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", int(silence_s * 1000)),
    ):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _prefer(transport: paramiko.Transport, known_types: Sequence[str]) -> None:
    """Ask first for host keys of a type that is known, lest another type look like a changed key."""
    options = transport.get_security_options()
    wanted = {"rsa-sha2-512", "rsa-sha2-256"} if "ssh-rsa" in known_types else set()
    wanted |= set(known_types)
    options.key_types = sorted(options.key_types, key=lambda key_type: key_type not in wanted)


def _handshake_failure(place: str, error: Exception) -> str:
    text = _text(error)
    if text == "No existing session":  # what paramiko says after a limit that it does not name
        return f"{place} did not finish the SSH handshake in time."
    if "banner" in text.lower() or "negotiation failed" in text.lower():
        return f"{place} takes connections but does not answer as an SSH server does ({text})."
    return f"no SSH connection with {place}: {text}."


def _text(error: Exception) -> str:
    text = str(error).strip().rstrip(".").partition("\n")[0]
    return text or ("the connection was closed" if isinstance(error, EOFError) else type(error).__name__)


def check_alive(link: Link, board: str, what: str, deadlines: Deadlines) -> None:
    """Raise TransportTimeout when the board has been silent for too long to be there."""
    if link.silent_s() > deadlines.silence_s:
        raise TransportTimeout(
            board, f"nothing was heard for {deadlines.silence_s:g} s during {what}; the link is probably cut."
        )
