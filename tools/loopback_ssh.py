"""A real SSH server on a free loopback port, with its own keys and without root: a board for demo and tests."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgedeploy.errors import ConnectError, TransportError
from edgedeploy.transport.address import Address
from edgedeploy.transport.ssh import SshTransport
from edgedeploy.transport.ssh_link import Deadlines

START_S = 20.0
ALIAS = "loopback-board"

Kind = Literal["openssh", "asyncssh"]


@dataclass(frozen=True, slots=True)
class LoopbackServer:
    """A server that answers: `ssh -F <ssh_config> <alias>` logs in to it."""

    kind: Kind
    alias: str
    host: str
    port: int
    user: str
    folder: Path
    pid: int

    @property
    def ssh_config(self) -> Path:
        """The OpenSSH client configuration that holds all one needs to log in."""
        return self.folder / "ssh_config"

    @property
    def known_hosts(self) -> Path:
        """Holds the server's public key under its address."""
        return self.folder / "known_hosts"

    @property
    def client_key(self) -> Path:
        """The private key that the server lets in."""
        return self.folder / "client_key"

    @property
    def log(self) -> Path:
        """What the server said."""
        return self.folder / "server.log"


def find_sshd() -> Path | None:
    """OpenSSH's server, which must be started by its full path."""
    found = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
    return Path(found) if found else None


@contextmanager
def loopback_ssh(
    folder: Path,
    *,
    alias: str = ALIAS,
    environment: Mapping[str, str] | None = None,
    kind: Kind | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[LoopbackServer]:
    """Run a server whose files lie in `folder` until the block ends.

    It is OpenSSH's where there is one that lets this account in, else asyncssh's; `kind` insists on one.
    `environment` is set in every session; `settings` win over what OpenSSH's is given otherwise. Keys that are in
    the folder already are used again. Raises RuntimeError when no server could be started.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    host_key = make_key(folder / "host_key")
    client_key = make_key(folder / "client_key")
    (folder / "authorized_keys").write_text(f"{client_key}\n")
    kinds: list[Kind] = [kind] if kind else ["openssh", "asyncssh"]
    failures = []
    for each in kinds:
        server = LoopbackServer(each, alias, "127.0.0.1", free_port(), getpass.getuser(), folder, 0)
        _write_client_files(server, host_key)
        try:
            process = _start(server, environment or {}, settings or {})
        except FileNotFoundError as error:
            failures.append(str(error))
            continue
        try:
            try:
                _wait(server, process)
            except RuntimeError as error:
                failures.append(str(error))
                continue
            yield LoopbackServer(each, alias, server.host, server.port, server.user, folder, process.pid)
            return
        finally:
            _stop(process)
    raise RuntimeError("no SSH server could be started on loopback: " + "; ".join(failures))


def make_key(path: Path) -> str:
    """Make an ed25519 key pair at `path` and `path`.pub unless it is there; return the public key's line."""
    public = Path(f"{path}.pub")
    if not (path.exists() and public.exists()):
        key = Ed25519PrivateKey.generate()
        path.unlink(missing_ok=True)
        path.touch(0o600)
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            )
        )
        line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        public.write_bytes(line + b"\n")
    return public.read_text().strip()


def _write_client_files(server: LoopbackServer, host_key: str) -> None:
    server.known_hosts.write_text(f"[{server.host}]:{server.port} {host_key}\n")
    settings = {
        "HostName": server.host,
        "Port": server.port,
        "User": server.user,
        "IdentityFile": f'"{server.client_key}"',
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": f'"{server.known_hosts}"',
        "StrictHostKeyChecking": "yes",
    }
    lines = [f"Host {server.alias}", *(f"    {key} {value}" for key, value in settings.items())]
    server.ssh_config.write_text("\n".join(lines) + "\n")


def _start(
    server: LoopbackServer, environment: Mapping[str, str], settings: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    if server.kind == "openssh":
        sshd = find_sshd()
        if sshd is None:
            raise FileNotFoundError("there is no sshd here (Debian: openssh-server)")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd wants it when it runs as root
        config = server.folder / "sshd_config"
        config.write_text(_sshd_config(server, environment, settings))
        command = [str(sshd), "-D", "-e", "-f", str(config)]
    else:
        command = [sys.executable, "-m", "tools.asyncssh_server", str(server.folder), str(server.port)]
        command += [f"{name}={value}" for name, value in environment.items()]
    with server.log.open("wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=Path(__file__).parent.parent,
        )


def _sshd_config(server: LoopbackServer, environment: Mapping[str, str], settings: Mapping[str, str]) -> str:
    def quoted(text: object) -> str:
        return '"' + str(text).replace("\\", "\\\\").replace('"', '\\"') + '"'

    own = {
        "ListenAddress": server.host,
        "Port": server.port,
        "HostKey": quoted(server.folder / "host_key"),
        "AuthorizedKeysFile": quoted(server.folder / "authorized_keys"),
        "PidFile": "none",
        "StrictModes": "no",  # temporary folders may be writable by others
        "UsePAM": "no",
        "UseDNS": "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
        "MaxStartups": 100,
        "PrintMotd": "no",
        "Subsystem": "sftp internal-sftp",  # the sftp-server program lies elsewhere on every system
    }
    lines = [f"{key} {value}" for key, value in {**own, **settings}.items()]
    # only the first SetEnv counts; SHLVL keeps bash from reading the account's own .bashrc for every command
    variables = {"SHLVL": "1", **environment}
    lines.append("SetEnv " + " ".join(quoted(f"{name}={value}") for name, value in variables.items()))
    return "\n".join(lines) + "\n"


def _wait(server: LoopbackServer, process: subprocess.Popen[bytes]) -> None:
    """Wait until a login works: an sshd may answer and yet let nobody in, as one does for a locked account."""
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((server.host, server.port), 1):
            break
        time.sleep(0.02)
    while True:
        try:
            with SshTransport(server.alias, Address("ssh", server.alias), server.ssh_config, Deadlines(2, 5, 5)) as ssh:
                ssh.run(["true"], timeout_s=10)
            return
        except TransportError as error:
            starting = isinstance(error, ConnectError) and process.poll() is None
            if not starting or time.monotonic() > deadline:
                said = server.log.read_text("utf-8", "replace").strip().rpartition("\n")[2]
                raise RuntimeError(f"{server.kind}: {error} The server's last word: {said or 'none'}") from error
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
