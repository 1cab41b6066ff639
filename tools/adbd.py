"""A real adbd, Android's own server for adb, as a phone for the tests: fetched from Debian, run without root.

It is AOSP's adbd, its shell is mksh and its tools are toybox's as on a phone; but the kernel and the files are this
machine's, it is no Android, and has no getprop.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.apt_sources import debian_sources

ROOT = Path(__file__).parents[1]
CACHE = ROOT / "build" / "adbd"
PORT = 7555  # not one of those at which adb looks for emulators by itself
SERIAL = f"127.0.0.1:{PORT}"
PACKAGES = ("adbd", "mksh", "toybox")
ADBD = "usr/lib/android-sdk/platform-tools/adbd"
START_S = 20.0
FETCH_S = 180.0


class NoAdbd(Exception):
    """Why this machine cannot have one."""


class NoNamespaces(NoAdbd):
    """The kernel, or what this account may do, forbids one; nothing that could be installed mends that."""


@dataclass(frozen=True, slots=True)
class Phone:
    """A running adbd with an adb server beside it, both in namespaces that nothing else is in.

    A client with `environment` talks to that server, through a socket in the file system; commands on the phone see
    this machine's files.
    """

    folder: Path
    environment: Mapping[str, str]
    holder: subprocess.Popen[str]

    def tell(self, command: str) -> None:
        """Have the namespace's first process do something."""
        assert self.holder.stdin is not None
        assert self.holder.stdout is not None
        self.holder.stdin.write(command + "\n")
        self.holder.stdin.flush()
        if self.holder.stdout.readline() != "done\n":
            raise NoAdbd(f"the namespace could not: {command}")

    def start_adbd(self, name: str = "adbd", port: int = PORT) -> None:
        """Switch the phone on, or another one beside it."""
        program, libraries, tools = fetch_adbd()
        # adbd hands its own environment on to commands; with what tests have in theirs they would be no phone's
        self.start(
            name,
            [str(program)],
            {
                "PATH": f"{tools}:{os.defpath}",
                "HOME": str(self.folder / "home"),
                "ADBD_PORT": str(port),
                "LD_LIBRARY_PATH": libraries,
            },
        )

    def kill_adbd(self) -> None:
        """Pull the cable."""
        self.tell("kill adbd")

    def hang_adbd(self, name: str) -> None:
        """Have it take connections and answer nothing, until `wake_adbd`."""
        self.tell(f"stop {name}")

    def wake_adbd(self, name: str) -> None:
        """Have it go on where it hung."""
        self.tell(f"continue {name}")

    def start_server(self) -> None:
        """Start the adb server and have it find the phone."""
        adb = shutil.which("adb")
        assert adb is not None
        socket_path = self.folder / "adb"
        socket_path.unlink(missing_ok=True)
        argv = [adb, "-L", f"localfilesystem:{socket_path}", "nodaemon", "server"]
        self.start("server", argv, {"PATH": os.defpath, "HOME": str(self.folder / "home")})
        deadline = time.monotonic() + START_S
        while not socket_path.exists():
            if time.monotonic() > deadline:
                raise NoAdbd(f"the adb server does not start: {(self.folder / 'log').read_text()[-500:]}")
            time.sleep(0.02)

    def kill_server(self) -> None:
        """What `adb kill-server` or a crash of it does."""
        self.tell("kill server")
        (self.folder / "adb").unlink(missing_ok=True)

    def connected(self, serial: str = SERIAL) -> bool:
        """Whether the server sees the phone as ready, or does once it was told to connect."""
        self.adb("connect", serial)
        return self.adb("-s", serial, "get-state") == "device"

    def adb(self, *arguments: str) -> str:
        """What adb answers to a short command."""
        done = subprocess.run(
            ["adb", *arguments],
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
        return done.stdout.strip()

    def wait(self, serial: str = SERIAL) -> None:
        """Until the server sees the phone. Raises NoAdbd."""
        deadline = time.monotonic() + START_S
        while not self.connected(serial):
            if time.monotonic() > deadline:
                raise NoAdbd(f"adbd does not answer: {(self.folder / 'log').read_text()[-500:]}")
            time.sleep(0.1)

    def mount(self, options: str, path: Path) -> None:
        """Cover a folder, on the phone alone, by a file system of memory: `size=1m`, `ro`, `noexec`."""
        self.tell(f"mount {options} {path}")

    def start(self, name: str, argv: list[str], environment: dict[str, str]) -> None:
        """Run a program beside adbd, in its network and nobody else's."""
        setup = {"argv": argv, "environment": environment, "log": str(self.folder / "log")}
        self.tell(f"start {name} {json.dumps(setup)}")


@contextlib.contextmanager
def phone() -> Iterator[Phone]:
    """A phone that is on and seen by its adb server; all of it ends with the block. Raises NoAdbd."""
    if shutil.which("adb") is None or shutil.which("unshare") is None:
        raise NoAdbd("adb and unshare are needed (Debian: adb, util-linux)")
    fetch_adbd()
    # a socket's path is short, and pytest's folders are not
    with tempfile.TemporaryDirectory(prefix="adbd-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        (folder / "home").mkdir()
        holder = subprocess.Popen(
            ["unshare", "-Urmnpf", "--kill-child", sys.executable, "-m", "tools.adbd_namespace"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
        stack.callback(_end, holder)
        assert holder.stdout is not None
        if holder.stdout.readline() != "ready\n":
            raise NoNamespaces("this kernel lets this account have no namespaces of its own")
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "ADB_SERVER_SOCKET": f"localfilesystem:{folder / 'adb'}",
        }
        made = Phone(folder, environment, holder)
        made.tell(f"bind {CACHE / 'root/bin/mksh'} /bin/sh")
        made.start_adbd()
        made.start_server()
        made.wait()
        yield made


def _end(holder: subprocess.Popen[str]) -> None:
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdin.close()
    try:
        holder.wait(5)
    except subprocess.TimeoutExpired:
        holder.kill()
        holder.wait()
    holder.stdout.close()


def fetch_adbd() -> tuple[Path, str, Path]:
    """The program, the value of LD_LIBRARY_PATH that it needs, and a folder of a phone's tools. Raises NoAdbd.

    All come from the machine's own Debian.
    """
    tree = CACHE / "root"
    program = tree / ADBD
    if why := _fetched(tree):
        raise NoAdbd(f"it cannot be fetched from Debian's backports into {tree}: {why} (CONTRIBUTING.md)")
    folders = sorted({str(path.parent) for path in tree.rglob("*.so*")})
    return program, os.pathsep.join(folders), tree / "tools"


@functools.cache
def _fetched(tree: Path) -> str:
    """Have the files lie in `tree`, once for all processes; why they do not, or "". What failed is not tried again."""
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (tree / ADBD).exists():
                _download(tree)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return ""


def _download(tree: Path) -> None:
    """Fetch adbd and what it needs beyond what is installed, and unpack them; nothing is installed."""
    release = Path("/etc/os-release").read_text()
    codename = re.search(r"^VERSION_CODENAME=(\w+)$", release, re.MULTILINE)
    if codename is None:
        raise OSError("this is no release of Debian")
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        apt = Path(name)
        for folder in ("sources", "lists/partial", "archives/partial", "unpacked"):
            (apt / folder).mkdir(parents=True)
        file, sources = debian_sources(codename[1], backports=True)
        (apt / "sources" / file).write_text(sources)
        options = {
            "Dir::Etc::sourcelist": "-",
            "Dir::Etc::sourceparts": apt / "sources",
            "Dir::State::lists": apt / "lists",
            "Dir::Cache": apt,
            "Dir::Cache::archives": apt / "archives",
            "Debug::NoLocking": "1",
            "APT::Sandbox::User": "root" if os.getuid() == 0 else "",
            "APT::Install-Recommends": "0",
        }
        command = ["apt-get", "-q", *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))]
        subprocess.run([*command, "update"], capture_output=True, timeout=FETCH_S, check=False)
        wanted = ["-t", f"{codename[1]}-backports", "--download-only", "-y", "install", *PACKAGES]
        done = subprocess.run([*command, *wanted], check=False, capture_output=True, text=True, timeout=FETCH_S)
        packages = list((apt / "archives").glob("*.deb"))
        if done.returncode != 0 or not packages:
            raise OSError((done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2])
        for package in packages:
            subprocess.run(["dpkg-deb", "-x", package, apt / "unpacked"], check=True, capture_output=True)
        (apt / "unpacked/tools").mkdir()
        toybox = apt / "unpacked/bin/toybox"
        for tool in subprocess.run([toybox], capture_output=True, text=True, check=True).stdout.split():
            (apt / "unpacked/tools" / tool).symlink_to("../bin/toybox")
        (apt / "unpacked").rename(tree)
