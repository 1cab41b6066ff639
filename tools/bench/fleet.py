"""Measures how long a fleet takes: one file brought to 100 SSH boards and checked there, beside pyinfra and xargs."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil

from tools.bench import environments
from tools.bench.environments import PeerFailed
from tools.bench.rows import OURS, BenchError, Row, interleave, ratio_row
from tools.bench.servers import bench_server
from tools.bench.tables import Cell, Table
from tools.loopback_ssh import LoopbackServer

TITLE = "A fleet of 100 boards"
HOW = (
    "100 SSH servers of their own keys on loopback, 16 at a time, 5 rounds. Every board gets a file of 1 MiB, hashes "
    "it, and says what machine it is. edgedeploy also checks the board's free space, gives it the agent, and gives the "
    "file its name only when its hash was right. `again` is the same once more, with the file there already. xargs "
    "runs scp and then ssh for every board; pyinfra runs two operations and a fact. The boards have no cores but this "
    "machine's, so what a contender has a board do counts as its time: edgedeploy starts Python there, the others a "
    "shell. Memory is the peak of the sum of the proportional set sizes of all processes of a contender, looked at "
    "five times a second; the servers do not count."
)
TOOLS = ("edgedeploy", "paramiko", "cryptography")
BOARDS = 100
JOBS = 16
ROUNDS = 5
SIZE_BYTES = 1 << 20
TIMEOUT_S = 600
XARGS = "xargs -P, scp and ssh"


def run() -> list[Row | Table]:
    """Compare wall time, for a first push and for one that finds everything there, and peak memory."""
    if shutil.which("scp") is None or shutil.which("xargs") is None:
        raise BenchError("fleet: needs scp and xargs; install OpenSSH's client and findutils.")
    with tempfile.TemporaryDirectory(prefix="edgedeploy-bench-") as folder, ExitStack() as stack:
        work = Path(folder)
        names = [f"board-{number}" for number in range(BOARDS)]
        fleet = _Fleet(work, [stack.enter_context(bench_server("fleet", work / name, name)) for name in names])
        contenders: dict[str, Callable[[], list[str]]] = {OURS: fleet.ours, XARGS: fleet.xargs}
        refused = []
        try:
            python = environments.interpreter("pyinfra")
            contenders["pyinfra"] = lambda: fleet.pyinfra(python)
        except PeerFailed as error:
            refused.append(("pyinfra", None, None, None, str(error)))
        return _compare(fleet, contenders, refused)


def _compare(
    fleet: _Fleet, contenders: Mapping[str, Callable[[], list[str]]], refused: Sequence[tuple[Cell, ...]]
) -> list[Row | Table]:
    peaks: dict[str, list[float]] = {name: [] for name in contenders}
    again: dict[str, list[float]] = {name: [] for name in contenders}

    def timed(name: str, command: Callable[[], list[str]]) -> Callable[[], float]:
        def measure() -> float:
            fleet.clear()
            first_s, peak_bytes = _run(name, command(), fleet.environment)
            fleet.check(name)
            peaks[name].append(peak_bytes)
            again[name].append(_run(name, command(), fleet.environment)[0])
            return first_s

        return measure

    samples = interleave({name: timed(name, command) for name, command in contenders.items()}, ROUNDS)
    # the harness threw its first round away: so do we
    again = {name: figures[1:] for name, figures in again.items()}
    what = f"{BOARDS} boards, {SIZE_BYTES >> 10} KiB each"
    rows: list[Row | Table] = [
        ratio_row(f"push and probe {what}", samples, XARGS, "time"),
        ratio_row(f"the same again, {what}", again, XARGS, "time"),
    ]
    columns = ("way", "first push, s", "again, s", "peak memory, MiB", "remark")
    cells: list[tuple[Cell, ...]] = [
        (
            *(name, round(statistics.median(samples[name]), 2), round(statistics.median(again[name]), 2)),
            *(round(max(peaks[name][1:]) / 2**20, 1), ""),
        )
        for name in contenders
    ]
    return [*rows, Table("Medians of the rounds", columns, (*cells, *refused))]


class _Fleet:
    """The boards, and the command by which each contender serves them all."""

    def __init__(self, work: Path, servers: Sequence[LoopbackServer]) -> None:
        self.disks = {server.alias: server.folder / "disk" for server in servers}
        self.ssh_config = work / "ssh_config"
        self.ssh_config.write_text("\n".join(server.ssh_config.read_text() for server in servers))
        self.source = work / "model.bin"
        self.source.write_bytes(os.urandom(SIZE_BYTES))
        self.sha256 = hashlib.sha256(self.source.read_bytes()).hexdigest()
        self.environment = {"BENCH_SOURCE": str(self.source), "BENCH_SHA256": self.sha256}
        self._boards = work / "boards.json"
        self._boards.write_text(json.dumps({alias: str(disk) for alias, disk in self.disks.items()}))
        self._inventory = work / "inventory.py"
        self._inventory.write_text("boards = " + repr([_pyinfra_host(server) for server in servers]) + "\n")

    def clear(self) -> None:
        """Give every board an empty disk."""
        for disk in self.disks.values():
            shutil.rmtree(disk, ignore_errors=True)
            disk.mkdir()

    def check(self, name: str) -> None:
        """Raise BenchError where a board has not got the file."""
        for alias, disk in self.disks.items():
            places = [disk / "model.bin", disk / "objects" / "sha256" / self.sha256]
            if not any(path.exists() and path.stat().st_size == SIZE_BYTES for path in places):
                raise BenchError(f"fleet: {name} left {alias} without the file")

    def ours(self) -> list[str]:
        """One process of ours for all boards."""
        order = {"source": str(self.source), "sha256": self.sha256, "boards": str(self._boards)}
        order |= {"ssh_config": str(self.ssh_config), "jobs": str(JOBS)}
        return [sys.executable, "-m", "tools.bench.fleet_job", json.dumps(order)]

    def xargs(self) -> list[str]:
        """Two programs for every board."""
        config, source = shlex.quote(str(self.ssh_config)), shlex.quote(str(self.source))
        there = "$2/model.bin"
        ask = f"echo {self.sha256}  {there} | sha256sum -c && uname -m"
        one = f'scp -q -F {config} {source} "$1:{there}" && ssh -F {config} "$1" "{ask}" >/dev/null'
        pairs = " ".join(f"{alias} {shlex.quote(str(disk))}" for alias, disk in self.disks.items())
        line = f"echo {shlex.quote(pairs)} | xargs -n 2 -P {JOBS} sh -c {shlex.quote(one)} one"
        return ["sh", "-c", line]

    def pyinfra(self, python: Path) -> list[str]:
        """pyinfra, as its documentation has it."""
        deploy = environments.PEERS / "pyinfra_deploy.py"
        return [str(python.parent / "pyinfra"), "-y", "--parallel", str(JOBS), str(self._inventory), str(deploy)]


def _pyinfra_host(server: LoopbackServer) -> tuple[str, dict[str, object]]:
    data = {
        "ssh_hostname": server.host,
        "ssh_port": server.port,
        "ssh_user": server.user,
        "ssh_key": str(server.client_key),
        "ssh_known_hosts_file": str(server.known_hosts),
        "ssh_strict_host_key_checking": "yes",
        "ssh_allow_agent": False,
        "destination": str(server.folder / "disk" / "model.bin"),
    }
    return server.alias, data


def _run(name: str, argv: list[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Seconds that a command takes, and the peak of its processes' memory in bytes. Raises BenchError."""
    peak_bytes = 0.0
    start = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd=environments.ROOT,
            env={**os.environ, **environment},
        ) as process:
            watched = psutil.Process(process.pid)
            while process.poll() is None:
                peak_bytes = max(peak_bytes, _memory_bytes(watched))
                if time.perf_counter() - start > TIMEOUT_S:
                    process.kill()
                    raise BenchError(f"fleet: {name} was not done within {TIMEOUT_S} s")
                try:
                    process.wait(0.2)
                except subprocess.TimeoutExpired:
                    continue
        elapsed = time.perf_counter() - start
        if process.returncode:
            said.seek(0)
            raise BenchError(f"fleet: {name} failed: {environments.last_line(said.read())}")
    return elapsed, peak_bytes


def _memory_bytes(process: psutil.Process) -> float:
    total = 0.0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return total
    for each in family:
        try:
            total += each.memory_full_info().pss
        except psutil.Error:
            continue
    return total
