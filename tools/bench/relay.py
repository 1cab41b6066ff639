"""A TCP relay on loopback, as slow as a given link, that counts what crosses it: `python -m tools.bench.relay`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHUNK_BYTES = 1 << 14
# What may be under way in the relay beyond what the link holds: the queue of a small router.
QUEUE_S = 0.05


@dataclass(frozen=True, slots=True)
class Link:
    """What to play: bits per second in each direction, and seconds there and back; zero is as fast as it goes.

    Loss and TCP's slow start are not played: the relay's own connections are local ones.
    """

    bits_per_s: float = 0.0
    round_trip_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Crossed:
    """What crossed since the last count: bytes to and from the board, and how often its answer was waited for."""

    up_bytes: int
    down_bytes: int
    round_trips: int


class Relay:
    """A running relay: `port` to connect to, and what crossed it."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process, self.port = process, port

    def count(self) -> Crossed:
        """What crossed since the last call."""
        return Crossed(**json.loads(self._ask("count")))

    def cut_after(self, size_bytes: int) -> None:
        """Break the connection that brings so many more bytes towards the board; never for 0."""
        self._ask(f"cut {size_bytes}")

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


@contextlib.contextmanager
def relay(port: int, link: Link) -> Iterator[Relay]:
    """Relay to a local port, in a process of its own so that it takes no time from what is measured."""
    argv = [sys.executable, "-m", "tools.bench.relay", str(port), str(link.bits_per_s), str(link.round_trip_s)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield Relay(process, int(process.stdout.readline()))
        finally:
            process.kill()


class _Direction:
    """One way of the link, shared by all connections."""

    def __init__(self, bits_per_s: float, delay_s: float) -> None:
        self._bytes_per_s, self._delay_s, self._free_at = bits_per_s / 8, delay_s, 0.0
        self.crossed = 0

    async def carry(self, data: bytes) -> float:
        """Wait for room on the link; return when the data arrives at its end."""
        loop = asyncio.get_running_loop()
        self.crossed += len(data)
        now = loop.time()
        self._free_at = max(now, self._free_at) + (len(data) / self._bytes_per_s if self._bytes_per_s else 0.0)
        arrival = self._free_at + self._delay_s
        if self._free_at - now > QUEUE_S:
            await asyncio.sleep(self._free_at - now - QUEUE_S)
        return arrival


class _Server:
    def __init__(self, port: int, link: Link) -> None:
        self._port = port
        self._up = _Direction(link.bits_per_s, link.round_trip_s / 2)
        self._down = _Direction(link.bits_per_s, link.round_trip_s / 2)
        self._round_trips, self._answered = 0, True
        self._cut_in = 0

    def obey(self, line: str) -> str:
        """Do what a line asks, and answer it."""
        command, _, value = line.strip().partition(" ")
        if command == "cut":
            self._cut_in = int(value)
            return "{}"
        counted = {"up_bytes": self._up.crossed, "down_bytes": self._down.crossed, "round_trips": self._round_trips}
        self._up.crossed = self._down.crossed = self._round_trips = 0
        return json.dumps(counted)

    async def accept(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        far_in, far_out = await asyncio.open_connection("127.0.0.1", self._port)
        self._answered = True
        both = [self._pump(near_in, far_out, self._up, near_out), self._pump(far_in, near_out, self._down, far_out)]
        await asyncio.gather(*both)
        for writer in (near_out, far_out):
            writer.close()

    async def _pump(
        self, source: asyncio.StreamReader, to: asyncio.StreamWriter, way: _Direction, back: asyncio.StreamWriter
    ) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delivering = asyncio.create_task(self._deliver(queue, to))
        while data := await _read(source):
            if way is self._up:
                self._round_trips += self._answered
                self._answered = False
                if 0 < self._cut_in <= len(data):
                    self._cut_in = 0
                    to.transport.abort()
                    back.transport.abort()
                    break
                self._cut_in = max(0, self._cut_in - len(data))
            else:
                self._answered = True
            queue.put_nowait((await way.carry(data), data))
        queue.put_nowait((0.0, b""))
        await delivering

    async def _deliver(self, queue: asyncio.Queue[tuple[float, bytes]], to: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            arrival, data = await queue.get()
            if not data:
                with contextlib.suppress(OSError, RuntimeError):
                    to.write_eof()
                return
            if arrival > loop.time():
                await asyncio.sleep(arrival - loop.time())
            if not to.is_closing():
                with contextlib.suppress(ConnectionError):
                    to.write(data)
                    await to.drain()


async def _read(source: asyncio.StreamReader) -> bytes:
    try:
        return await source.read(CHUNK_BYTES)
    except ConnectionError:
        return b""


async def _serve(port: int, link: Link, listen: int) -> None:
    server = _Server(port, link)
    listening = await asyncio.start_server(server.accept, "127.0.0.1", listen)
    if listen:
        await listening.serve_forever()
    print(listening.sockets[0].getsockname()[1], flush=True)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        print(server.obey(line.decode()), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("bits_per_s", type=float)
    parser.add_argument("round_trip_s", type=float)
    parser.add_argument("--listen", type=int, default=0, help="at this port until killed, without taking orders")
    given = parser.parse_args()
    asyncio.run(_serve(given.port, Link(given.bits_per_s, given.round_trip_s), given.listen))
