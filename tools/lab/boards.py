"""One virtual board: its storage, its boot, and what can be done to it from outside."""

from __future__ import annotations

import os
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path

from edgedeploy.errors import EdgeDeployError
from edgedeploy.transport.adb_server import AdbServer
from tools.lab.cgroups import Cgroup
from tools.lab.hardware import write_hardware, write_own_files
from tools.lab.kinds import BoardKind
from tools.lab.network import Link, Network
from tools.lab.sensor_daemon import THROTTLE_FLAG
from tools.lab.storage import Disk
from tools.lab.system import LabError, run, unmount_below

BOOT = Path(__file__).with_name("boot.sh")
PORTS = {"ssh": 22, "adb": 5555}
ANSWER_S = 30.0
GREETING_S = 10.0
THROTTLED_CORES = 0.5


class VirtualBoard:
    """A board that `Lab` has brought up; `address` is its own in the lab's network."""

    def __init__(self, kind: BoardKind, number: int, lab: Path, network: Network, root: Path) -> None:
        self.kind = kind
        self.name = kind.name
        self.live = lab / "live" / kind.name
        self.folder = lab / "boards" / kind.name
        self.group = Cgroup(f"{network.mark}/{kind.name}", delegated=kind.init == "systemd")
        self.link = Link(network, kind.name, number, lab / f"{kind.name}-link.log")
        self.address = self.link.address
        # `upper` in it lies over the shared root
        self.disk = Disk(self.folder / "storage.ext4", self.folder / "storage")
        self._root = root

    @property
    def port(self) -> int:
        """Where its server listens."""
        return PORTS[self.kind.link]

    def running(self) -> bool:
        """Whether its first process, storage and wire are there."""
        return self._init_pid() is not None and self.disk.mounted and self.link.whole()

    def create(self, *, host_key: str, public_keys: str) -> None:
        """Make the board afresh, with empty storage, and switch it on."""
        self.destroy()
        self.disk.create(self.kind.disk_bytes, self.kind.inodes)
        for name in ("upper", "work", "merged"):
            (self.disk.folder / name).mkdir()
        write_own_files(self.kind, self.disk.folder / "upper", host_key=host_key, public_keys=public_keys)
        self.disk.commit()
        self.group.create(self.kind.memory_bytes)
        self.link.make()
        if self.kind.link == "adb":
            self._forget_predecessor()
        self.start()

    def destroy(self) -> None:
        """Switch the board off and remove all of it, whatever a run that was killed has left."""
        self.group.kill()
        self.link.remove()
        unmount_below(self.disk.folder)
        self.group.remove()
        for folder in (self.folder, self.live):
            shutil.rmtree(folder, ignore_errors=True)

    def start(self) -> None:
        """Switch it on; `wait` tells when it answers."""
        self.disk.mount()
        self.live.mkdir(parents=True, exist_ok=True)
        write_hardware(self.kind, self.live)
        command = [
            *self.link.enter(),
            *("unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"),
            *(["--cgroup"] if self.kind.init == "systemd" else []),
            *("/bin/sh", str(BOOT), str(self._root), str(self.disk.folder), str(self.live)),
            *(self.kind.init, " ".join(self.kind.without)),
        ]
        with (self.live / "console.log").open("ab") as console:
            self.group.start(command, console)

    def stop(self) -> None:
        """Cut its power: no process of it is left, and what it had not yet written to its disk is lost."""
        self.group.freeze()  # what runs on would see a disk that answers nothing, and might tell of it
        if self.disk.mounted:
            self.disk.lose_power()
        self.group.kill()

    def reboot(self) -> None:
        """Cut its power, switch it on again, and wait until it answers."""
        self.stop()
        self.start()
        self.wait()

    def wait(self, timeout_s: float = ANSWER_S) -> None:
        """Wait until its server answers, and lets its user in. Raises LabError."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            # An emulated sshd on busy cores takes seconds to greet, and each impatient caller costs it another.
            with suppress(OSError), socket.create_connection((self.address, self.port), GREETING_S) as connection:
                if self.kind.link == "adb" or (connection.recv(4) == b"SSH-" and not self._booting()):
                    return
            time.sleep(0.1)
        said = (self.live / "console.log").read_text("utf-8", "replace").strip().rpartition("\n")[2]
        raise LabError(f"{self.name} does not answer on {self.address}:{self.port}; its console: {said or 'nothing'}.")

    def run(self, *argv: str, check: bool = True, timeout_s: float = 60.0) -> str:
        """Run a command on the board as root, past its network, and return what it prints. Raises LabError."""
        pid = self._init_pid()
        if pid is None:
            raise LabError(f"{self.name} is off: `python -m tools.lab up` switches it on.")
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"]
        return run(["nsenter", f"--target={pid}", *spaces, *argv], check=check, timeout_s=timeout_s)

    def cut(self) -> None:
        """Pull its network cable."""
        self.link.cut()

    def restore(self) -> None:
        """Put the cable in again and make the link fast and faultless."""
        self.link.plug()
        self.link.limit_rate(None)
        self.link.delay(0, 0)

    def shape(self, *, delay_ms: float = 0, loss: float = 0, rate_mbit: float | None = None) -> None:
        """Make the link so slow, both ways: delay and loss (0 to 1) of each packet, megabits a second."""
        self.link.limit_rate(rate_mbit)
        self.link.delay(delay_ms, loss)

    def kill_sshd(self) -> None:
        """End its SSH server and every session; it starts again by itself as under an init system."""
        pid = self._init_pid()
        for each in self.group.pids():
            with suppress(OSError):
                if each != pid and "sshd" in Path(f"/proc/{each}/cmdline").read_text():
                    os.kill(each, 9)

    def set_read_only(self, read_only: bool) -> None:
        """Let nobody write to its file system, as after an error of the disk; or let them again."""
        self.run("/bin/mount", "-o", f"remount,{'ro' if read_only else 'rw'}", "/")

    def throttle(self) -> None:
        """Have it run at its limit of heat: hot, at the lowest clock, and slow."""
        (self.live / THROTTLE_FLAG).touch()
        self.group.limit_cpu(THROTTLED_CORES)

    def release_throttle(self) -> None:
        """Let it cool down; what its firmware remembers lasts until it reboots."""
        (self.live / THROTTLE_FLAG).unlink(missing_ok=True)
        self.group.limit_cpu(None)

    def heal(self) -> None:
        """Undo all of the above, and switch it on where it is off. Raises LabError."""
        if self._init_pid() is None:
            self.start()
        self.restore()
        self.release_throttle()
        self.disk.release()
        self.set_read_only(False)
        self.wait()

    def _forget_predecessor(self) -> None:
        """Have the adb server of this machine, if one runs, end its connection to the phone that was here before.

        It would take this one for it, and wait for answers of a phone that is gone.
        """
        server = AdbServer(self.name)
        with suppress(EdgeDeployError):  # no adb on this machine, or none that answers: it has no connection either
            if server.answers():
                server.call("disconnect", f"{self.address}:{self.port}")

    def _booting(self) -> bool:
        """Whether its init lets nobody but root in yet."""
        return Path(f"/proc/{self._init_pid()}/root/run/nologin").exists()

    def _init_pid(self) -> int | None:
        for pid in self.group.pids():
            with suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                spaces = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
                if len(spaces) > 1 and spaces[-1] == "1":
                    return pid
        return None
