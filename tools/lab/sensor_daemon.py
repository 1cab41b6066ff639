"""Keeps the sensors of all boards in step with what their processes do; started and stopped by the lab."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

from tools.lab import sensors
from tools.lab.cgroups import Cgroup
from tools.lab.hardware import sample, sysfs_tree, write_value
from tools.lab.kinds import BOARDS, BoardKind

PERIOD_S = 0.25
THROTTLE_FLAG = "throttle"


class Follower:
    """One board's sensors."""

    def __init__(self, kind: BoardKind, folder: Path, group: Cgroup) -> None:
        self.kind = kind
        self.folder = folder
        self.group = group
        self.tree = sysfs_tree(kind)
        self.pmic = sample(kind, "pmic_read_adc.txt")
        self.is_pi = sample(kind, "get_throttled.txt") is not None
        self.state = sensors.at_rest(kind)
        self.written: dict[Path, str] = {}
        self.boot_id = ""
        self.last: tuple[float, float] | None = None
        self.booted_s = self.idle_s = 0.0

    def follow(self) -> None:
        """Read what the board used since the last time and write what its sensors say."""
        boot_id = (self.folder / "proc" / "boot_id").read_text()
        used_s, now_s = self.group.cpu_s(), time.monotonic()
        if boot_id != self.boot_id:
            self.boot_id, self.booted_s, self.idle_s, self.last = boot_id, now_s, 0.0, None
            self.state = sensors.State(self.state.temperature_c, used_j=self.state.used_j)
            self.written.clear()
        if self.last is not None and now_s > self.last[1]:
            seconds = now_s - self.last[1]
            load = max(0.0, used_s - self.last[0]) / seconds
            throttle = (self.folder / THROTTLE_FLAG).exists()
            self.state = sensors.advance(self.kind, self.state, load, seconds, throttle=throttle)
            self.idle_s += max(0.0, self.kind.cpus - load) * seconds
        self.last = (used_s, now_s)
        self._write(now_s)

    def _write(self, now_s: float) -> None:
        values = {
            self.folder / path.lstrip("/"): value
            for path, value in sensors.sysfs_values(self.kind, self.state, self.tree).items()
            if path in self.tree
        }
        proc = sensors.proc_values(
            self.kind,
            self.state,
            up_s=now_s - self.booted_s,
            idle_s=self.idle_s,
            used_bytes=self.group.memory_bytes(),
        )
        values.update({self.folder / "proc" / name: value for name, value in proc.items()})
        if self.is_pi:
            firmware = sensors.firmware_values(self.kind, self.state, self.pmic)
            values.update({self.folder / "vcio" / name: value for name, value in firmware.items()})
        for path, value in values.items():
            if self.written.get(path) != value:
                write_value(path, value)
                self.written[path] = value


def main(live: Path, lab: str, names: list[str]) -> None:
    """Follow the boards until the lab ends this process; `live` holds a folder for each."""
    followers = [Follower(BOARDS[name], live / name, Cgroup(f"{lab}/{name}")) for name in names]
    due_s = time.monotonic()
    while True:
        for follower in followers:
            with suppress(OSError):  # the board is just being switched on or off
                follower.follow()
        due_s = max(due_s + PERIOD_S, time.monotonic())
        time.sleep(max(0.0, due_s - time.monotonic()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
