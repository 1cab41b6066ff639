"""Peers for adb that go wrong as phones and USB do: an adbd that trusts nobody, a server that lists at will."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping

_HEADER = struct.Struct("<6I")
_A_CNXN, _A_AUTH = 0x4E584E43, 0x48545541
_TOKEN = 1
_SERVER_VERSION = b"0029"  # 41, what every adb since 2019 says; another would be killed by the client


@contextlib.contextmanager
def _serving(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port on loopback at which every connection is handled by `talk`."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_ones: list[socket.socket] = []

    def one(connection: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError), connection:
            talk(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                open_ones.append(connection)
                threading.Thread(target=one, args=(connection,), daemon=True).start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        for each in (listener, *open_ones):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        accepting.join(5)


def _read(connection: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        piece = connection.recv(size - len(content))
        if not piece:
            raise EOFError
        content += piece
    return content


@contextlib.contextmanager
def distrustful_adbd() -> Iterator[int]:
    """An adbd whose user has not accepted the computer's key: it asks for a signature again and again."""

    def talk(connection: socket.socket) -> None:
        while True:
            command, kind, _, length, _, _ = _HEADER.unpack(_read(connection, _HEADER.size))
            _read(connection, length)
            if command == _A_CNXN or (command == _A_AUTH and kind == 2):
                token = os.urandom(20)
                crc = sum(token) & 0xFFFFFFFF
                header = _HEADER.pack(_A_AUTH, _TOKEN, 0, len(token), crc, _A_AUTH ^ 0xFFFFFFFF)
                connection.sendall(header + token)

    with _serving(talk) as port:
        yield port


@contextlib.contextmanager
def silent_adbd() -> Iterator[int]:
    """An adbd that takes connections and never answers, as a phone does that is half asleep."""

    def talk(connection: socket.socket) -> None:
        while connection.recv(4096):
            pass

    with _serving(talk) as port:
        yield port


@contextlib.contextmanager
def listing_server(lines: str, more: Mapping[bytes, bytes] | None = None) -> Iterator[int]:
    """An adb server that answers `adb devices -l` by `lines`, requests in `more` by theirs, all else by a failure."""

    def talk(connection: socket.socket) -> None:
        request = _read(connection, int(_read(connection, 4), 16))
        answers = {b"host:version": _SERVER_VERSION, b"host:devices-l": lines.encode(), **(more or {})}
        answer = answers.get(request)
        if answer is None:
            connection.sendall(b"FAIL" + b"0006" + b"closed")
        else:
            connection.sendall(b"OKAY" + f"{len(answer):04x}".encode() + answer)

    with _serving(talk) as port:
        yield port


def listens(port: int) -> bool:
    """Whether somebody listens at the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
