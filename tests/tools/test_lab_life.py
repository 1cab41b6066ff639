"""A lab comes from nothing and leaves nothing, also after a run that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.lab import Lab, LabError
from tools.lab.cgroups import MOUNT
from tools.lab.network import interfaces, namespaces
from tools.lab.system import mounts_below

pytestmark = pytest.mark.lab


@pytest.fixture
def other(lab: Lab, tmp_path: Path) -> Iterator[Lab]:
    """A second lab on the same machine, with the first one's roots."""
    other = Lab(tmp_path / "lab", lab.roots)
    yield other
    other.down()


def traces(lab: Lab, mark: str) -> list[str]:
    """What is left on the machine of the lab of that mark."""
    groups = [str(path) for path in MOUNT.glob(f"**/edgedeploy-lab/{mark}")]
    ours = [name for name in [*interfaces(), *namespaces()] if mark in name and name.startswith("ed")]
    processes = subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
    running = [line for line in processes.splitlines() if str(lab.folder) in line]
    loops = subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout
    return [*groups, *ours, *running, *map(str, mounts_below(lab.folder)), *(["loop"] * (str(lab.folder) in loops))]


def test_down_leaves_nothing_and_two_labs_do_not_meet(lab: Lab, other: Lab) -> None:
    other.up(["x86", "systemd"])
    mark = other.board("x86").link.network.mark
    assert other.board("x86").address != lab.board("x86").address
    assert len(traces(other, mark)) > 5
    other.board("x86").shape(delay_ms=1, rate_mbit=100)
    other.down()
    assert traces(other, mark) == []
    assert {path.name for path in other.folder.iterdir()} <= {"lock", "users"}
    assert lab.board("x86").running()


def test_up_repairs_what_a_killed_run_left(other: Lab) -> None:
    other.up(["x86", "old"])
    board = other.board("x86")
    for pid in board.group.pids():
        os.kill(pid, signal.SIGKILL)
    subprocess.run(["ip", "link", "delete", board.link.port], check=True)
    other.board("old").cut()
    other.up()
    assert other.board("x86").running()
    other.board("old").wait(5)


def test_up_of_one_board_keeps_the_others(other: Lab) -> None:
    other.up(["old"])
    other.up(["x86"])
    assert list(other.boards) == ["x86", "old"]
    with pytest.raises(LabError, match=r"^The lab has no board 'pi4': it has x86, old\.$"):
        other.board("pi4")
