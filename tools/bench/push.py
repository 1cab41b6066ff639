"""Measures how long a model file takes to a board: our push beside scp and its kind, over a real SSH server."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgedeploy.records import Device
from tools.bench.rows import OURS, BenchError, Row, interleave, ratio_row
from tools.loopback_ssh import LoopbackServer, loopback_ssh

TITLE = "Pushing 64 MiB"
HOW = (
    "64 MiB of random bytes to an SSH server on loopback, connecting included, 11 rounds. `put` carries the file "
    "and no more, as the peers do. `push` is what a user runs: look what the board is and has, check its free "
    "space, give it the agent, send to a temporary name, have the board hash the file, sync it to disk and rename"
    " it; no peer does that."
)
TOOLS = ("edgedeploy", "paramiko", "cryptography")
SIZE_BYTES = 64 << 20
ROUNDS = 11
TIMEOUT_S = 120


def run() -> list[Row]:
    """Compare a bare `put` and a whole push with scp, sftp and a plain paramiko session."""
    missing = [tool for tool in ("scp", "sftp") if shutil.which(tool) is None]
    if missing:
        raise BenchError(f"push: needs {' and '.join(missing)}; install OpenSSH's client.")
    with _server() as server, tempfile.TemporaryDirectory(prefix="edgedeploy-bench-") as folder:
        source, arrived = Path(folder) / "model.bin", Path(folder) / "board"
        source.write_bytes(os.urandom(SIZE_BYTES))
        arrived.mkdir()
        contenders = {
            "put": _put(server, source, arrived / "ours"),
            "push": _push(server, source, arrived),
            "scp": _scp(server, source, arrived / "scp"),
            "sftp": _sftp(server, source, arrived / "sftp"),
            "paramiko put": _paramiko(server, source, arrived / "paramiko"),
        }
        samples = interleave(contenders, ROUNDS)
    peers = {name: samples[name] for name in contenders if name not in ("put", "push")}
    return [
        ratio_row(f"{what} 64 MiB over {server.kind} on loopback", {OURS: samples[what], **peers}, "scp", "time")
        for what in ("put", "push")
    ]


@contextmanager
def _server() -> Iterator[LoopbackServer]:
    with tempfile.TemporaryDirectory(prefix="edgedeploy-bench-") as folder:
        try:
            with loopback_ssh(Path(folder)) as server:
                yield server
        except RuntimeError as error:
            raise BenchError(f"push: {error}") from error


def _timed(arrived: Path, send: Callable[[], None]) -> float:
    """Return the seconds that `send` takes to bring the whole file to `arrived`, which is removed again."""
    start = time.perf_counter()
    send()
    elapsed = time.perf_counter() - start
    if arrived.stat().st_size != SIZE_BYTES:
        raise BenchError(f"push: {arrived.name} left {arrived.stat().st_size} bytes of {SIZE_BYTES}")
    arrived.unlink()
    return elapsed


def _device(server: LoopbackServer, root: Path) -> Device:
    return Device(
        name="bench",
        profile="x86-64",
        address=f"ssh://{server.alias}",
        root=str(root),
        ssh_config=str(server.ssh_config),
    )


def _put(server: LoopbackServer, source: Path, destination: Path) -> Callable[[], float]:
    from edgedeploy.transport import open_transport

    def send() -> None:
        with open_transport(_device(server, destination.parent), Path.cwd()) as transport:
            transport.put(source, str(destination), timeout_s=TIMEOUT_S)

    return lambda: _timed(destination, send)


def _push(server: LoopbackServer, source: Path, folder: Path) -> Callable[[], float]:
    from edgedeploy.board import open_board, push
    from edgedeploy.plan import load_profiles

    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    profile = load_profiles()["x86-64"]
    number = itertools.count()

    def measure() -> float:
        # A root of its own each time: what a board has is not sent again.
        root = folder / f"root-{next(number)}"

        def send() -> None:
            with open_board(_device(server, root), profile, Path.cwd()) as board:
                push(board, {digest: source})

        elapsed = _timed(root / "objects" / "sha256" / digest, send)
        shutil.rmtree(root)
        return elapsed

    return measure


def _scp(server: LoopbackServer, source: Path, destination: Path) -> Callable[[], float]:
    argv = ["scp", "-q", "-F", str(server.ssh_config), str(source), f"{server.alias}:{destination}"]
    return lambda: _timed(destination, lambda: _command(argv))


def _sftp(server: LoopbackServer, source: Path, destination: Path) -> Callable[[], float]:
    argv = ["sftp", "-q", "-b", "-", "-F", str(server.ssh_config), server.alias]
    return lambda: _timed(destination, lambda: _command(argv, f"put {source} {destination}\n"))


def _paramiko(server: LoopbackServer, source: Path, destination: Path) -> Callable[[], float]:
    import paramiko

    def send() -> None:
        with paramiko.SSHClient() as client:
            client.load_host_keys(str(server.known_hosts))
            client.connect(
                server.host, server.port, server.user, key_filename=str(server.client_key), allow_agent=False
            )
            with client.open_sftp() as sftp:
                sftp.put(str(source), str(destination))

    return lambda: _timed(destination, send)


def _command(argv: list[str], text: str = "") -> None:
    done = subprocess.run(argv, input=text.encode(), capture_output=True, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise BenchError(f"push: `{argv[0]}` failed: {said}")
