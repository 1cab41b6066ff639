"""A board whose power is cut at any step has the old release or the new one, whole, after its disk forgot the rest.

The disk is a real file system that loses whatever was not synced: content without a name, names without content.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedeploy.deploy import SigningKey
from tests.deploy.releasing import ACTIVATING, OLD, RECOVERING, ROLLING_BACK, TAKING_BACK, Built, Kitchen
from tools.lab import Disk, check_machine

pytestmark = [pytest.mark.lab, pytest.mark.fault, pytest.mark.timeout(60)]

SIZE_BYTES, INODES = 32 << 20, 2048
# Here the disk matters: what says that the release is proven was written, and not yet synced.
ON_DISK = {"replace:journal.json:after:2": OLD}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    check_machine(emulated=False)
    disk = Disk(tmp_path / "disk.ext4", tmp_path / "disk")
    disk.create(SIZE_BYTES, INODES)
    yield disk
    disk.unmount()


@pytest.fixture
def kitchen(disk: Disk, deployed: Path, key: SigningKey) -> Kitchen:
    """A board on that disk, of which release 2 is active."""
    return Kitchen.copy(deployed, disk.folder / "the root", key)


def test_the_disk_forgets(disk: Disk) -> None:
    """The lab's own fault is one: what was written and not synced is gone, and what was synced is there."""
    (disk.folder / "kept").write_text("kept")
    disk.commit()
    (disk.folder / "lost").write_text("lost")
    disk.lose_power()
    disk.mount()
    assert {path.name for path in disk.folder.iterdir()} == {"kept", "lost+found"}


@pytest.mark.parametrize(("point", "ends"), ACTIVATING)
def test_power_cut_while_activating(
    kitchen: Kitchen, disk: Disk, third: Built, point: str, ends: tuple[int, int]
) -> None:
    """A power cut at any step of an activation leaves what the next operation sets right, from synced bytes alone."""
    ends = ON_DISK.get(point, ends)
    kitchen.cut_power_at(point, kitchen.operation(3, third), disk)
    assert kitchen.active() == ends
    done = kitchen.do(kitchen.operation(4, third))
    assert (done["outcome"], kitchen.active()) == ("active", (4, ends[0]))


@pytest.mark.parametrize("point", TAKING_BACK)
def test_power_cut_while_rolling_back_by_itself(kitchen: Kitchen, disk: Disk, third: Built, point: str) -> None:
    """A power cut while a bad release is taken back leaves a board that goes on taking it back."""
    kitchen.cut_power_at(point, kitchen.operation(3, third, settings=kitchen.unwell), disk)
    assert kitchen.active() == OLD


@pytest.mark.parametrize(("died", "again", "ends"), RECOVERING)
def test_power_cut_again_while_recovering(
    kitchen: Kitchen, disk: Disk, third: Built, died: str, again: str, ends: tuple[int, int]
) -> None:
    """A second power cut, while the board recovers from the first, is recovered from as well."""
    kitchen.cut_power_at(died, kitchen.operation(3, third), disk)
    kitchen.cut_power_at(again, {"op": "releases"}, disk)
    assert kitchen.active() == ends


@pytest.mark.parametrize(("point", "ends"), ROLLING_BACK)
def test_power_cut_during_a_rollback(kitchen: Kitchen, disk: Disk, point: str, ends: tuple[int, int]) -> None:
    """A rollback amid which the power is cut is taken back or brought to its end, and both releases stay whole."""
    kitchen.cut_power_at(point, {"op": "rollback", "number": 1}, disk)
    assert kitchen.active() == ends


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_power_cut_after_all_was_told_to_be_well(kitchen: Kitchen, disk: Disk, third: Built, packed: bool) -> None:
    """What the board called active is active after a power cut in the same moment, be it unpacked there or not."""
    operation = kitchen.operation(3, third, packed=packed)
    disk.commit()
    assert kitchen.do(operation)["outcome"] == "active"
    disk.lose_power()
    disk.mount()
    assert kitchen.active() == (3, 2)
