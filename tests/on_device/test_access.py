"""What is on a board and closed to its user is named, with the group that opens it."""

from __future__ import annotations

import grp
import os
import shutil
import sys
from pathlib import Path

import pytest

from edgedeploy.on_device.access import closed_sensors, shared_libraries


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be read: the tests may run as root, who may read everything."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)


def sensor(root: Path, path: str, mode: int, group: int) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("1\n")
    file.chmod(mode)
    if os.getuid() == 0:
        os.chown(file, 0, group)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives a file to another group")
@pytest.mark.parametrize(
    ("path", "name", "mode", "group", "who"),
    [
        ("dev/vcio", "pi5-pmic", 0o660, "video", "/dev/vcio is for the group video"),
        (
            "sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in1_input",
            "ina3221",
            0o640,
            "adm",
            "/sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in1_input is for the group adm",
        ),
        ("sys/class/powercap/intel-rapl:0/energy_uj", "rapl", 0o400, "root", "/energy_uj is for root alone"),
        ("sys/class/power_supply/bat/current_now", "battery", 0o600, "adm", "current_now is for root alone"),
    ],
)
def test_who_may_read_a_sensor(
    tmp_path: Path, closed: None, path: str, name: str, mode: int, group: str, who: str
) -> None:
    sensor(tmp_path, path, mode, grp.getgrnam(group).gr_gid)
    found = closed_sensors(str(tmp_path))
    assert list(found) == [name]
    assert who in found[name]


def test_a_sensor_that_is_open_is_not_closed(tmp_path: Path) -> None:
    sensor(tmp_path, "dev/vcio", 0o666, os.getgid())
    assert closed_sensors(str(tmp_path)) == {}


def test_a_board_without_sensors(tmp_path: Path) -> None:
    assert closed_sensors(str(tmp_path)) == {}


def test_libraries_of_another_machine_do_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "usr/lib/x-linux-gnu"
    folder.mkdir(parents=True)
    program = Path(os.path.realpath(sys.executable)).read_bytes()[:64]
    library = program + b"\0GLIBCXX_3.4\0GLIBCXX_3.4.9\0GLIBCXX_3.4.28\0GLIBCXX_DEBUG_MESSAGE_LENGTH\0"
    (folder / "libstdc++.so.6").write_bytes(library)
    foreign = bytearray(library)
    foreign[18] ^= 0xFF
    (folder / "libgomp.so.1").write_bytes(bytes(foreign))
    assert shared_libraries(str(tmp_path)) == {"libstdc++.so.6": "GLIBCXX_3.4.28"}


@pytest.mark.skipif(shutil.which("ldconfig") is None, reason="no GNU C library")
def test_libraries_of_this_machine() -> None:
    found = shared_libraries()
    assert set(found) <= {"libstdc++.so.6", "libgomp.so.1", "libgcc_s.so.1"}
    if "libstdc++.so.6" in found:
        assert found["libstdc++.so.6"].startswith("GLIBCXX_3.4.")
