"""The ways to bring a file to an SSH server that the benches compare, each from connecting to the end."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from edgedeploy.records import Device
from tools.bench.rows import BenchError
from tools.loopback_ssh import LoopbackServer

TIMEOUT_S = 300

# Sends a local file to a path of the server's disk; for `push` that is a root, below which the file gets its place.
Send = Callable[[LoopbackServer, Path, Path], None]


def put(server: LoopbackServer, source: Path, destination: Path) -> None:
    """Our transport alone."""
    put_to(_device(server, destination.parent), source, destination)


def put_to(device: Device, source: Path, destination: Path) -> None:
    """The same for any device."""
    from edgedeploy.transport import open_transport

    with open_transport(device, Path.cwd()) as transport:
        transport.put(source, str(destination), timeout_s=TIMEOUT_S)


def push(server: LoopbackServer, source: Path, root: Path) -> None:
    """All that a user's push does."""
    push_to(_device(server, root), source)


def push_to(device: Device, source: Path) -> None:
    """The same to the root of any device."""
    from edgedeploy.board import open_board
    from edgedeploy.board import push as push_files
    from edgedeploy.plan import load_profiles

    with open_board(device, load_profiles()["x86-64"], Path.cwd()) as board:
        push_files(board, {digest(source): source})


def scp(server: LoopbackServer, source: Path, destination: Path) -> None:
    """OpenSSH's scp."""
    command(["scp", "-q", "-F", str(server.ssh_config), str(source), f"{server.alias}:{destination}"])


def sftp(server: LoopbackServer, source: Path, destination: Path, verb: str = "put") -> None:
    """OpenSSH's sftp."""
    argv = ["sftp", "-q", "-b", "-", "-F", str(server.ssh_config), server.alias]
    command(argv, f"{verb} {source} {destination}\n")


def sftp_reput(server: LoopbackServer, source: Path, destination: Path) -> None:
    """OpenSSH's sftp, going on where a transfer ended; it compares nothing but sizes."""
    sftp(server, source, destination, "reput")


def rsync(server: LoopbackServer, source: Path, destination: Path, *options: str) -> None:
    """rsync, which takes a file of equal size and time for the same."""
    shell = f"ssh -F {server.ssh_config}"
    argv = ["rsync", "-q", "--times", *options, "-e", shell, str(source), f"{server.alias}:{destination}"]
    command(argv)


def rsync_checksum(server: LoopbackServer, source: Path, destination: Path) -> None:
    """rsync, comparing what the files hold."""
    rsync(server, source, destination, "--checksum")


def rsync_resuming(server: LoopbackServer, source: Path, destination: Path) -> None:
    """rsync, going on where a transfer ended once it has compared what lies there."""
    rsync(server, source, destination, "--inplace", "--append-verify")


def paramiko_put(server: LoopbackServer, source: Path, destination: Path) -> None:
    """A plain paramiko session, as its documentation has it."""
    import paramiko

    with paramiko.SSHClient() as client:
        client.load_host_keys(str(server.known_hosts))
        client.connect(server.host, server.port, server.user, key_filename=str(server.client_key), allow_agent=False)
        with client.open_sftp() as session:
            session.put(str(source), str(destination))


ALL: Mapping[str, Send] = {
    "put": put,
    "push": push,
    "scp": scp,
    "sftp": sftp,
    "rsync": rsync,
    "paramiko put": paramiko_put,
}


def arrived(name: str, source: Path, destination: Path) -> Path:
    """Where the file lies after the way called `name` has sent it to `destination`."""
    return destination / "objects" / "sha256" / digest(source) if name == "push" else destination


def check(name: str, source: Path, destination: Path) -> None:
    """Raise BenchError where the way called `name` did not bring the whole file."""
    found = arrived(name, source, destination)
    if not found.exists() or found.read_bytes() != source.read_bytes():
        raise BenchError(f"push: {name} did not bring the whole file")


def remove(destination: Path) -> None:
    """Remove what a way has brought."""
    if destination.is_dir():
        shutil.rmtree(destination)
    else:
        destination.unlink()


def size(source: Path) -> str:
    """A file's size as rows say it."""
    size_bytes = source.stat().st_size
    return f"{size_bytes >> 20} MiB" if size_bytes >= 1 << 20 else f"{size_bytes} bytes"


@cache
def digest(source: Path) -> str:
    """The SHA-256 of a file that nobody changes meanwhile."""
    return hashlib.sha256(source.read_bytes()).hexdigest()


def through(server: LoopbackServer, port: int) -> LoopbackServer:
    """The same server, as it is reached through a relay on `port`."""
    folder = server.folder / f"through-{port}"
    folder.mkdir()
    shutil.copy(server.client_key, folder / server.client_key.name)
    old, new = f"[{server.host}]:{server.port}", f"[{server.host}]:{port}"
    (folder / "known_hosts").write_text(server.known_hosts.read_text().replace(old, new))
    config = server.ssh_config.read_text().replace(f"Port {server.port}", f"Port {port}")
    (folder / "ssh_config").write_text(config.replace(str(server.known_hosts), str(folder / "known_hosts")))
    return replace(server, port=port, folder=folder)


def command(argv: list[str], text: str = "") -> None:
    """Run a program. Raises BenchError with its last word."""
    done = subprocess.run(argv, input=text.encode(), capture_output=True, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise BenchError(f"push: `{argv[0]}` failed: {said}")


def _device(server: LoopbackServer, root: Path) -> Device:
    return Device(
        name="bench",
        profile="x86-64",
        address=f"ssh://{server.alias}",
        root=str(root),
        ssh_config=str(server.ssh_config),
    )
