"""A board that is added to fleet.toml changes nothing else in it, and a mistake changes nothing at all."""

from __future__ import annotations

import tomllib
from functools import partial
from pathlib import Path

import pytest

from edgedeploy.errors import PlanError
from edgedeploy.plan import load_fleet
from edgedeploy.plan.enrolling import add_device, device_toml
from tests.support.at_once import at_once

FLEET = '# mine\n[[device]]\nname = "here"   # this one\nprofile = "x86-64"\naddress = "local:"\n# the end'
NEW = {"name": "desk", "profile": "pi5", "address": "ssh://pi@desk", "root": '/data/a "b" \\ é\x7f', "tags": ["a", "b"]}


def test_a_board_is_added_at_the_end_and_all_else_stays(tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(FLEET)
    file.chmod(0o640)
    add_device(tmp_path, NEW)
    assert file.read_text() == FLEET + "\n\n" + device_toml(NEW)
    assert file.stat().st_mode & 0o777 == 0o640
    added = load_fleet(tmp_path).device("desk")
    assert (added.root, added.tags) == (NEW["root"], ("a", "b"))
    assert [path.name for path in tmp_path.iterdir()] == ["fleet.toml"]


def test_a_fleet_that_is_not_there_is_begun(tmp_path: Path) -> None:
    add_device(tmp_path, NEW)
    assert load_fleet(tmp_path).devices[0].name == "desk"


@pytest.mark.parametrize(
    ("before", "change", "complaint"),
    [
        (FLEET, {"name": "here"}, "the name `here` is taken"),
        (FLEET, {"name": "two words"}, "device.name"),
        (FLEET, {"profile": "pi55"}, r"no device profile `pi55` \(did you mean `pi5`\?\)"),
        (FLEET, {"address": "desk"}, "device.address"),
        (FLEET, {"address": "local:x"}, "device.address: found 'local:x': it is no address; write `local:`, `ssh://"),
        (FLEET, {"address": "ssh://two words"}, "device.address: found 'ssh://two words': it is no address"),
        (
            FLEET,
            {"address": "adb://"},
            "device.address: found 'adb://': it names no phone; `edgedeploy devices discover`",
        ),
        (FLEET, {"colour": "red"}, "colour"),
        ("device = []", {}, "write its boards as"),
        ("[[device]", {}, "not valid TOML"),
        (FLEET + '\n[[device]]\nname = "x"\n', {}, "profile"),
    ],
)
def test_a_mistake_leaves_the_file_as_it_was(
    tmp_path: Path, before: str, change: dict[str, str], complaint: str
) -> None:
    (tmp_path / "fleet.toml").write_text(before)
    with pytest.raises(PlanError, match=complaint):
        add_device(tmp_path, NEW | change)
    assert (tmp_path / "fleet.toml").read_text() == before


def test_two_that_add_at_once_both_stay_in(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text(FLEET)
    at_once(*(partial(add_device, tmp_path, NEW | {"name": f"b{n}"}) for n in range(8)))
    assert len(tomllib.loads((tmp_path / "fleet.toml").read_text())["device"]) == 9
