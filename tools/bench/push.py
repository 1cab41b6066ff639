"""Measures how long a model file takes to a board: our push beside scp and its kind, and beside adb's own."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from edgedeploy.errors import TransportError
from tools.bench import senders
from tools.bench.over_adb import over_adb
from tools.bench.relay import Link, Relay, relay
from tools.bench.rows import OURS, BenchError, Row, interleave, ratio_row
from tools.bench.servers import bench_server
from tools.bench.tables import Cell, Table
from tools.loopback_ssh import LoopbackServer

TITLE = "Pushing a file"
HOW = (
    "64 MiB of random bytes to an SSH server on loopback, connecting included: as fast as it goes, 11 rounds, and, "
    "3 rounds, through a relay in user space that passes on 20 Mbit/s in each direction and 20 ms later (it plays "
    "neither loss nor TCP's slow start). `put` carries the file and no more, as the peers do. `push` is what a user "
    "runs: look what the board is and has, check its free space, give it the agent, send to a temporary name, have the "
    "board hash the file, sync "
    "it to disk and rename it; no peer does that. The tables count at the relay what crosses the wire for a file that "
    "is there already, and for one whose transfer was cut off half-way: bytes to and from the board, and how often its "
    "answer was waited for, everything from the first packet of the connection on included. Over adb the same goes to "
    "Android's own adbd, as Debian packages it, on this machine's files; adb's server is connected to it already."
)
TOOLS = ("edgedeploy", "paramiko", "cryptography")
SIZE_BYTES = 64 << 20
ROUNDS = 11
SLOW_ROUNDS = 3
LOOPBACK, AFAR = "on loopback", "at 20 Mbit/s and 40 ms"
SLOW = Link(bits_per_s=20e6, round_trip_s=0.04)


def run() -> list[Row | Table]:
    """Compare a bare `put` and a whole push with scp, sftp, rsync and a plain paramiko session."""
    missing = [tool for tool in ("scp", "sftp", "rsync") if shutil.which(tool) is None]
    if missing:
        raise BenchError(f"push: needs {' and '.join(missing)}; install OpenSSH's client and rsync.")
    with (
        tempfile.TemporaryDirectory(prefix="edgedeploy-bench-") as folder,
        bench_server("push", Path(folder) / "server") as server,
    ):
        work = Path(folder)
        source = work / "model.bin"
        source.write_bytes(os.urandom(SIZE_BYTES))
        rows: list[Row | Table] = list(_rows(server, source, work / "fast", ROUNDS, LOOPBACK))
        with relay(server.port, SLOW) as slow:
            far = senders.through(server, slow.port)
            rows += _rows(far, source, work / "slow", SLOW_ROUNDS, AFAR)
            tables = [_again(far, slow, source, work / "again"), _resumed(far, slow, source, work / "resumed")]
        rows += over_adb(source, [(ROUNDS, None, LOOPBACK), (SLOW_ROUNDS, SLOW, AFAR)])
    return [*rows, *tables]


def _rows(server: LoopbackServer, source: Path, arrived: Path, rounds: int, where: str) -> Iterator[Row]:
    arrived.mkdir()
    contenders = {name: _timed(name, send, server, source, arrived) for name, send in senders.ALL.items()}
    samples = interleave(contenders, rounds)
    peers = {name: samples[name] for name in contenders if name not in ("put", "push")}
    for what in ("put", "push"):
        yield ratio_row(
            f"{what} {senders.size(source)} over {server.kind} {where}", {OURS: samples[what], **peers}, "scp", "time"
        )


def _timed(name: str, send: senders.Send, server: LoopbackServer, source: Path, folder: Path) -> Callable[[], float]:
    """Return what gives the seconds that `send` takes to bring the whole file there, to a new place each time."""
    number = itertools.count()

    def measure() -> float:
        destination = folder / f"{name}-{next(number)}"
        start = time.perf_counter()
        send(server, source, destination)
        elapsed = time.perf_counter() - start
        senders.check(name, source, destination)
        senders.remove(destination)
        return elapsed

    return measure


COLUMNS = ("way", "bytes to the board", "bytes from it", "round trips", "seconds", "what it compares")
COMPARES_NOTHING = "nothing"
# A way to send, and what it compares before it believes that it need not.
Ways = Mapping[str, tuple[senders.Send, str]]


def _again(server: LoopbackServer, link: Relay, source: Path, folder: Path) -> Table:
    """What a file costs that lies on the board already."""
    ways: Ways = {
        "push": (senders.push, "SHA-256 on the board"),
        "rsync": (senders.rsync, "size and time"),
        "rsync --checksum": (senders.rsync_checksum, "a hash on the board"),
        "scp": (senders.scp, COMPARES_NOTHING),
        "sftp": (senders.sftp, COMPARES_NOTHING),
    }

    def whole(send: senders.Send, destination: Path) -> None:
        send(server, source, destination)

    rows = _counted(ways, whole, server, link, source, folder)
    return Table(f"{source.stat().st_size:,} bytes that are there already, {AFAR}", COLUMNS, rows)


def _resumed(server: LoopbackServer, link: Relay, source: Path, folder: Path) -> Table:
    """What the second try costs of a transfer that was cut off half-way."""
    ways: Ways = {
        "push": (senders.push, "SHA-256 of what arrived, on the board"),
        "rsync --append-verify": (senders.rsync_resuming, "a hash of the file in the end"),
        "sftp reput": (senders.sftp_reput, "size"),
        "scp": (senders.scp, COMPARES_NOTHING),
    }

    def half(send: senders.Send, destination: Path) -> None:
        first = senders.sftp if send is senders.sftp_reput else send
        link.cut_after(source.stat().st_size // 2)
        try:
            first(server, source, destination)
        except (BenchError, TransportError):
            link.cut_after(0)
        else:
            raise BenchError(f"push: {destination.name} noticed nothing of a link that was cut")

    rows = _counted(ways, half, server, link, source, folder)
    return Table(f"{source.stat().st_size:,} bytes cut off half-way, then sent again, as above", COLUMNS, rows)


def _counted(
    ways: Ways,
    before: Callable[[senders.Send, Path], None],
    server: LoopbackServer,
    link: Relay,
    source: Path,
    folder: Path,
) -> tuple[tuple[Cell, ...], ...]:
    """A row for each way: what crosses the link and how long it takes after `before` has put something there."""
    folder.mkdir()
    rows = []
    for name, (send, compares) in ways.items():
        destination = folder / name.replace(" ", "")
        before(send, destination)
        link.count()
        start = time.perf_counter()
        send(server, source, destination)
        elapsed = time.perf_counter() - start
        crossed = link.count()
        senders.check(name, source, destination)
        rows.append((name, crossed.up_bytes, crossed.down_bytes, crossed.round_trips, round(elapsed, 2), compares))
    return tuple(rows)
