"""Measures how long a file takes to a phone: our push over adb beside `adb push`, to Android's own adbd."""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest.mock import patch

from edgedeploy.records import Device
from tools.adbd import PORT, ROOT, SERIAL, NoAdbd, Phone, phone
from tools.bench import senders
from tools.bench.relay import Link
from tools.bench.rows import OURS, Row, interleave, ratio_row
from tools.bench.tables import Table

ADB_PUSH = "adb push"
RELAY_PORT = PORT + 1
RELAYED = f"127.0.0.1:{RELAY_PORT}"
# Brings a local file to a path on the phone; for `push` that is a root, below which the file gets its place.
Send = Callable[[Path, Path], None]


def over_adb(source: Path, parts: list[tuple[int, Link | None, str]]) -> list[Row | Table]:
    """A row for `put` and one for `push` of each part: how many rounds, over which link, and its words.

    Where this machine can have no adbd that is said in place of the rows. Raises BenchError.
    """
    found: list[Row | Table] = []
    try:
        with phone() as there:
            for rounds, link, words in parts:
                serial = SERIAL if link is None else _through_relay(there, link)
                found += _rows(there, serial, source, rounds, words)
    except NoAdbd as why:
        return [Table("Over adb", ("way", "remark"), ((ADB_PUSH, f"refused: {why}"), (OURS, "refused: as above")))]
    return found


def _through_relay(there: Phone, link: Link) -> str:
    """Connect to the phone once more, through a relay beside it; return what it is then called."""
    argv = [sys.executable, "-m", "tools.bench.relay", str(PORT), str(link.bits_per_s), str(link.round_trip_s)]
    there.start("relay", [*argv, "--listen", str(RELAY_PORT)], {"PATH": os.defpath, "PYTHONPATH": str(ROOT)})
    there.wait(RELAYED)
    return RELAYED


def _rows(there: Phone, serial: str, source: Path, rounds: int, words: str) -> list[Row]:
    ways = _ways(serial)
    # The phone's files are this machine's
    with tempfile.TemporaryDirectory(prefix="edgedeploy-bench-") as folder, patch.dict(os.environ, there.environment):
        contenders = {name: _timed(name, send, source, Path(folder)) for name, send in ways.items()}
        samples = interleave(contenders, rounds)
    peers = {name: samples[name] for name in ways if name not in ("put", "push")}
    return [
        ratio_row(f"{what} {senders.size(source)} over adb {words}", {OURS: samples[what], **peers}, ADB_PUSH, "time")
        for what in ("put", "push")
    ]


def _ways(serial: str) -> Mapping[str, Send]:
    def device(root: Path) -> Device:
        return Device("phone", "x86-64", f"adb://{serial}", root=str(root), python=sys.executable)

    def adb_push(source: Path, destination: Path) -> None:
        senders.command(["adb", "-s", serial, "push", str(source), str(destination)])

    return {
        "put": lambda source, destination: senders.put_to(device(destination.parent), source, destination),
        "push": lambda source, root: senders.push_to(device(root), source),
        ADB_PUSH: adb_push,
    }


def _timed(name: str, send: Send, source: Path, folder: Path) -> Callable[[], float]:
    number = itertools.count()

    def measure() -> float:
        destination = folder / f"{name.replace(' ', '')}-{next(number)}"
        start = time.perf_counter()
        send(source, destination)
        elapsed = time.perf_counter() - start
        senders.check(name, source, destination)
        senders.remove(destination)
        return elapsed

    return measure
