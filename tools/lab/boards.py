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
from tools.lab.system import LabError, mounts_below, run, unmount_below

BOOT = Path(__file__).with_name("boot.sh")
PORTS = {"ssh": 22, "adb": 5555}
ANSWER_S = 30.0
GREETING_S = 10.0
THROTTLED_CORES = 0.5
BLOCK_BYTES = 4096


class VirtualBoard:
    """A board that `Lab` has brought up; `address` is its own in the lab's network."""

    def __init__(self, kind: BoardKind, number: int, lab: Path, network: Network, root: Path) -> None:
        self.kind = kind
        self.name = kind.name
        self.live = lab / "live" / kind.name
        self.folder = lab / "boards" / kind.name
        self.group = Cgroup(f"{network.mark}/{kind.name}")
        self.link = Link(network, kind.name, number, lab / f"{kind.name}-link.log")
        self.address = self.link.address
        self._root = root

    @property
    def port(self) -> int:
        """Where its server listens."""
        return PORTS[self.kind.link]

    @property
    def storage(self) -> Path:
        """Where the board's own file system is mounted on this machine; `upper` in it lies over the shared root."""
        return self.folder / "storage"

    def running(self) -> bool:
        """Whether its first process, storage and wire are there."""
        return self._init_pid() is not None and self.storage in mounts_below(self.storage) and self.link.whole()

    def create(self, *, host_key: str, public_keys: str) -> None:
        """Make the board afresh, with empty storage, and switch it on."""
        self.destroy()
        self.storage.mkdir(parents=True)
        image = self.folder / "storage.ext4"
        with image.open("wb") as file:
            file.truncate(self.kind.disk_bytes)
        # no blocks are kept back for root, so that a full disk is full for everyone
        run(
            [
                "mkfs.ext4",
                "-q",
                "-m",
                "0",
                "-N",
                str(self.kind.inodes),
                "-E",
                "lazy_itable_init=1,nodiscard",
                image,
            ]
        )
        run(["mount", "-o", "loop", image, self.storage])
        for name in ("upper", "work", "merged"):
            (self.storage / name).mkdir()
        write_own_files(self.kind, self.storage / "upper", host_key=host_key, public_keys=public_keys)
        self.group.create(self.kind.memory_bytes)
        self.link.make()
        if self.kind.link == "adb":
            self._forget_predecessor()
        self.start()

    def destroy(self) -> None:
        """Switch the board off and remove all of it, whatever a run that was killed has left."""
        self.group.kill()
        self.link.remove()
        unmount_below(self.storage)
        self.group.remove()
        for folder in (self.folder, self.live):
            shutil.rmtree(folder, ignore_errors=True)

    def start(self) -> None:
        """Switch it on; `wait` tells when it answers."""
        self.live.mkdir(parents=True, exist_ok=True)
        write_hardware(self.kind, self.live)
        command = [
            *self.link.enter(),
            *("unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"),
            *("/bin/sh", str(BOOT), str(self._root), str(self.storage), str(self.live), " ".join(self.kind.without)),
        ]
        with (self.live / "console.log").open("ab") as console:
            self.group.start(command, console)

    def stop(self) -> None:
        """Switch it off: no process of it is left, its files stay."""
        self.group.kill()

    def reboot(self) -> None:
        """Switch it off and on, and wait until it answers; its files stay."""
        self.stop()
        self.start()
        self.wait()

    def wait(self, timeout_s: float = ANSWER_S) -> None:
        """Wait until its server answers. Raises LabError."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            # An emulated sshd on busy cores takes seconds to greet, and each impatient caller costs it another.
            with suppress(OSError), socket.create_connection((self.address, self.port), GREETING_S) as connection:
                if self.kind.link == "adb" or connection.recv(4) == b"SSH-":
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

    def fill_disk(self, leave_bytes: int = 0) -> None:
        """Fill its storage until only `leave_bytes` are free."""
        self._commit()
        filler = os.open(self.storage / "filler", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            offset, step = os.fstat(filler).st_size, 1 << 40
            while step >= BLOCK_BYTES:
                about = os.fstatvfs(filler)
                step = min(step, about.f_bavail * about.f_frsize - leave_bytes) // BLOCK_BYTES * BLOCK_BYTES
                try:
                    if step > 0:
                        os.posix_fallocate(filler, offset, step)
                        offset += step
                except OSError:
                    step //= 2  # the file's own index takes blocks too
        finally:
            os.close(filler)

    def fill_inodes(self) -> None:
        """Use up its inodes: no file can be made, though blocks are free."""
        folder = self.storage / "fillers"
        folder.mkdir(exist_ok=True)
        self._commit()
        number = 0
        while os.statvfs(folder).f_favail:
            try:
                (folder / str(number)).touch()
                number += 1
            except OSError:
                self._commit()

    def _commit(self) -> None:
        # what was removed before is free only once the file system has written that down
        run(["sync", "-f", self.storage])

    def release_disk(self) -> None:
        """Take away what the two above put there."""
        (self.storage / "filler").unlink(missing_ok=True)
        shutil.rmtree(self.storage / "fillers", ignore_errors=True)

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
        self.release_disk()
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

    def _init_pid(self) -> int | None:
        for pid in self.group.pids():
            with suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                spaces = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
                if len(spaces) > 1 and spaces[-1] == "1":
                    return pid
        return None
