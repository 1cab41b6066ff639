"""A wire in user space: carries packets between two interfaces, each after a while, and loses some."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import heapq
import os
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Callable

FRAME_BYTES = 65_600
MAX_HELD = 20_000  # packets; a longer queue loses what comes next, as a full buffer does
PACKET_OUTGOING = 4
ETH_P_ALL = 3

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_SIOCETHTOOL = 0x8946
_SOL_PACKET, _ADD_MEMBERSHIP, _PROMISCUOUS = 263, 1, 1
# how an interface that was removed answers
_GONE = (errno.EIO, errno.ENODEV, errno.ENXIO, errno.EBADFD)
# ETHTOOL_STXCSUM, ETHTOOL_SSG, ETHTOOL_STSO, ETHTOOL_SGSO (Linux, include/uapi/linux/ethtool.h)
_OFFLOADS = (0x17, 0x19, 0x1F, 0x24)


class Held:
    """Packets on their way in one direction."""

    def __init__(self, delay_s: float, loss: float, chance: Callable[[], float] = random.random) -> None:
        self._delay_s = delay_s
        self._loss = loss
        self._chance = chance
        self._queue: list[tuple[float, int, bytes]] = []
        self._count = 0

    def take(self, frame: bytes, now_s: float) -> None:
        """A packet has come in."""
        if self._chance() >= self._loss and len(self._queue) < MAX_HELD:
            self._count += 1
            heapq.heappush(self._queue, (now_s + self._delay_s, self._count, frame))

    def due(self, now_s: float) -> list[bytes]:
        """The packets that go out now, in the order they came."""
        frames = []
        while self._queue and self._queue[0][0] <= now_s:
            frames.append(heapq.heappop(self._queue)[2])
        return frames

    def wait_s(self, now_s: float) -> float | None:
        """How long until the next one is due; None where there is none."""
        return max(0.0, self._queue[0][0] - now_s) if self._queue else None


def switch_offloads_off(interface: str) -> None:
    """Have the kernel finish packets itself: checksums, and no longer than the wire takes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in _OFFLOADS:
            value = ctypes.create_string_buffer(struct.pack("II", command, 0), 8)
            request = struct.pack("16sP", interface.encode(), ctypes.addressof(value))
            fcntl.ioctl(control, _SIOCETHTOOL, request)


def carry(port: str, tap: str, delay_s: float, loss: float) -> None:
    """Carry packets between `port` and `tap` until one of them goes away."""
    tap_file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap_file, _TUNSETIFF, struct.pack("16sH22x", tap.encode(), _IFF_TAP | _IFF_NO_PI))
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    wire.bind((port, 0))
    index = socket.if_nametoindex(port)
    # it is no longer a port of the bridge, which would hear everything
    wire.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, struct.pack("iHH8s", index, _PROMISCUOUS, 0, b""))
    wire.setblocking(False)
    print(f"ready {tap}", flush=True)
    to_board, to_host = Held(delay_s, loss), Held(delay_s, loss)
    while True:
        now_s = time.monotonic()
        waits = [wait for held in (to_board, to_host) if (wait := held.wait_s(now_s)) is not None]
        readable, _, _ = select.select([tap_file, wire.fileno()], [], [], min(waits) if waits else None)
        now_s = time.monotonic()
        if tap_file in readable:
            _read(lambda: os.read(tap_file, FRAME_BYTES), to_board, now_s)
        if wire.fileno() in readable:
            _read(lambda: _incoming(wire), to_host, now_s)
        for frame in to_board.due(now_s):
            _send(wire.send, frame)
        for frame in to_host.due(now_s):
            _send(lambda data: os.write(tap_file, data), frame)


def _incoming(wire: socket.socket) -> bytes:
    frame, origin = wire.recvfrom(FRAME_BYTES)
    return b"" if origin[2] == PACKET_OUTGOING else frame


def _read(read: Callable[[], bytes], held: Held, now_s: float) -> None:
    for _ in range(256):
        try:
            frame = read()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno == errno.ENETDOWN:  # cut, perhaps not for ever
                return
            raise
        if frame:
            held.take(frame, now_s)


def _send(send: Callable[[bytes], int], frame: bytes) -> None:
    try:
        send(frame)
    except OSError as error:
        # a link that is down, or a buffer that is full, loses the packet
        if error.errno in _GONE:
            raise


def main() -> None:
    """`--plain INTERFACE` switches offloads off; `PORT TAP DELAY_MS LOSS` carries."""
    if sys.argv[1] == "--plain":
        switch_offloads_off(sys.argv[2])
        return
    port, tap, delay_ms, loss = sys.argv[1:]
    try:
        carry(port, tap, float(delay_ms) / 1000, float(loss))
    except OSError as error:
        if error.errno not in _GONE:
            raise


if __name__ == "__main__":
    main()
