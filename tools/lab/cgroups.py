"""Control groups: the limits of a board, what it uses, and a sure hold on every process that the lab started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from tools.lab.system import LabError, environment

MOUNT = Path("/sys/fs/cgroup")
FIRST_CONTROLLERS = ("memory", "cpuacct", "cpu", "pids")  # each a tree of its own in the first version
SECOND = MOUNT / "unified"  # where machines of the first version have the second beside it, without controllers
PERIOD_US = 100_000
KILL_S = 10.0

# the shell joins the groups before it starts the program, and leaves it to the system's first process
_JOIN = 'while [ "$1" != -- ]; do echo $$ > "$1"; shift; done; shift; "$@" &'


class Cgroup:
    """One group, in whichever version of control groups this machine mounts.

    `delegated` is for a board whose first process makes groups of the second version below it.
    """

    def __init__(self, name: str, *, delegated: bool = False) -> None:
        self.first = first_version()
        if self.first:
            self._folders = {each: MOUNT / each / "edgedeploy-lab" / name for each in FIRST_CONTROLLERS}
        else:
            self._folders = {"": MOUNT / "edgedeploy-lab" / name}
        if delegated and self.first:
            self._folders["unified"] = SECOND / "edgedeploy-lab" / name

    def create(self, memory_bytes: int | None = None) -> None:
        """Make the group unless it is there, with a limit on the memory of all its processes together."""
        for folder in self._folders.values():
            if not self.first:
                self._delegate(folder)
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise LabError(f"The control group {folder} cannot be made: {error.strerror}.") from error
        if memory_bytes is not None:
            self._write("memory", "memory.limit_in_bytes" if self.first else "memory.max", memory_bytes)

    def start(self, argv: Sequence[str], output: IO[bytes], cwd: Path | None = None) -> None:
        """Start a program inside the group that outlives this one, in a session of its own."""
        files = [str(folder / "cgroup.procs") for folder in self._folders.values()]
        subprocess.run(
            ["/bin/sh", "-c", _JOIN, "sh", *files, "--", *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=environment(),
            cwd=cwd,
            check=True,
        )

    def pids(self) -> list[int]:
        """The processes in the group, as this namespace numbers them."""
        found: set[int] = set()
        for folder in self._folders.values():
            for each in (folder, *_below(folder)):
                with suppress(OSError):
                    found.update(map(int, (each / "cgroup.procs").read_text().split()))
        return sorted(found)

    def freeze(self) -> None:
        """Stop every process in the group where it is; only `kill` is meant to follow."""
        stopped: set[int] = set()
        while running := set(self.pids()) - stopped:
            for pid in running:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            stopped |= running

    def kill(self) -> None:
        """End every process in the group. Raises LabError where one does not go."""
        deadline = time.monotonic() + KILL_S
        while pids := self.pids():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise LabError(f"The processes {', '.join(map(str, pids))} of the lab do not end.")
            time.sleep(0.02)
        for folder in self._folders.values():
            for each in _below(folder):
                _remove(each)

    def remove(self) -> None:
        """Remove the group and those above it that are the lab's and empty; its processes must have ended."""
        for folder in self._folders.values():
            for each in (folder, *folder.parents):
                if each == folder or "edgedeploy-lab" in each.parts:
                    _remove(each)

    def cpu_s(self) -> float:
        """The processor time that the group has used."""
        if self.first:
            return int(self._read("cpuacct", "cpuacct.usage")) / 1e9
        return int(self._read("", "cpu.stat").split()[1]) / 1e6

    def memory_bytes(self) -> int:
        """What the group holds that cannot be given up at once: what is used less inactive pages of files."""
        used = int(self._read("memory", "memory.usage_in_bytes" if self.first else "memory.current"))
        name = "total_inactive_file" if self.first else "inactive_file"
        fields = self._read("memory", "memory.stat").split()
        return max(0, used - int(fields[fields.index(name) + 1]))

    def oom_kills(self) -> int:
        """How many processes the memory limit has ended."""
        fields = self._read("memory", "memory.oom_control" if self.first else "memory.events").split()
        return int(fields[fields.index("oom_kill") + 1])

    def limit_cpu(self, cores: float | None) -> None:
        """Let the group use so many cores at most; None takes the limit away."""
        quota_us = None if cores is None else round(cores * PERIOD_US)
        if self.first:
            self._write("cpu", "cpu.cfs_quota_us", -1 if quota_us is None else quota_us)
        else:
            self._write("", "cpu.max", f"{'max' if quota_us is None else quota_us} {PERIOD_US}")

    def _folder(self, controller: str) -> Path:
        return self._folders[controller if self.first else ""]

    def _read(self, controller: str, name: str) -> str:
        return (self._folder(controller) / name).read_text()

    def _write(self, controller: str, name: str, value: object) -> None:
        path = self._folder(controller) / name
        try:
            path.write_text(str(value))
        except OSError as error:
            raise LabError(
                f"{path} does not take {value} ({error.strerror}): this machine offers the lab no such limit."
            ) from error

    @staticmethod
    def _delegate(folder: Path) -> None:
        for parent in list(folder.parents)[: len(folder.relative_to(MOUNT).parts)][::-1]:
            parent.mkdir(exist_ok=True)
            with suppress(OSError):  # the limits themselves say what is missing
                (parent / "cgroup.subtree_control").write_text("+memory +cpu +pids")


def first_version() -> bool:
    """Whether this machine has its controllers in control groups of the first version."""
    return (MOUNT / "memory" / "cgroup.procs").exists()


def check_second_version() -> None:
    """Raise LabError unless this machine mounts control groups of the second version somewhere that we know."""
    if not ((SECOND if first_version() else MOUNT) / "cgroup.procs").exists():
        raise LabError(
            f"This machine mounts no control groups of the second version, which a board with systemd needs: "
            f"mkdir -p {SECOND} && mount -t cgroup2 cgroup2 {SECOND}."
        )


def _below(folder: Path) -> list[Path]:
    """The groups that were made below a group, the innermost first."""
    return [Path(parent) for parent, _, _ in os.walk(folder, topdown=False) if Path(parent) != folder]


def _remove(folder: Path) -> None:
    for _ in range(50):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if any(child.is_dir() for child in folder.iterdir()):
                return
            time.sleep(0.02)  # the kernel lets go of a group a moment after its last process
        else:
            return
