"""What is on this board and closed to this user or to its Python: sensors that want a group, libraries too old."""

from __future__ import annotations

import glob
import grp
import os
import re
import stat
import sys

from .fields import find

# Sensor, as power.py names it, and the files by which it is read.
_SENSORS = (
    ("ina3221", "sys/bus/i2c/devices/*/hwmon/hwmon*/in[0-9]*_input"),
    ("ina3221", "sys/bus/i2c/drivers/ina3221x/*/iio:device*/in_power*_input"),
    ("pi5-pmic", "dev/vcio"),
    ("rapl", "sys/class/powercap/intel-rapl:*/energy_uj"),
    ("battery", "sys/class/power_supply/*/current_now"),
)
_LIBRARIES = ("libstdc++.so.6", "libgomp.so.1", "libgcc_s.so.1")
_FOLDERS = ("lib", "usr/lib", "lib64", "usr/lib64", "lib/*-linux-gnu*", "usr/lib/*-linux-gnu*")
_MAX_LIBRARY_BYTES = 32 << 20


def closed_sensors(root: str = "/") -> dict[str, str]:
    """Return, by sensor, who may read one that is here and that this user may not."""
    closed: dict[str, str] = {}
    for name, pattern in _SENSORS:
        for path in find(root, pattern):
            full = os.path.join(root, path)
            # Whoever may read a device may not yet ask it: that takes writing too.
            wanted = os.R_OK | os.W_OK if path.startswith("dev/") else os.R_OK
            if name not in closed and not os.access(full, wanted):
                closed[name] = f"/{path} is for {_readers(full)}"
    return closed


def _readers(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return "root alone"
    if status.st_gid == 0 or not status.st_mode & stat.S_IRGRP:
        return "root alone"
    try:
        return f"the group {grp.getgrgid(status.st_gid).gr_name}"
    except KeyError:
        return f"the group {status.st_gid}"


def shared_libraries(root: str = "/", program: str = sys.executable) -> dict[str, str]:
    """Return the libraries that runtimes need and that a program such as this Python would find.

    The value is the newest GLIBCXX version that the library offers, "" for one that has none.
    """
    kind = _elf_kind(program)
    found: dict[str, str] = {}
    for name in _LIBRARIES:
        for folder in _FOLDERS:
            for path in sorted(glob.glob(os.path.join(glob.escape(root), folder, glob.escape(name)))):
                if name not in found and kind is not None and _elf_kind(path) == kind:
                    found[name] = _newest_version(path)
    return found


def _elf_kind(path: str) -> tuple[int, bytes] | None:
    try:
        with open(path, "rb") as file:
            header = file.read(20)
    except OSError:
        return None
    return (header[4], header[18:20]) if header[:4] == b"\x7fELF" and len(header) == 20 else None


def _newest_version(path: str) -> str:
    with open(path, "rb") as file:
        content = file.read(_MAX_LIBRARY_BYTES)
    versions = {tuple(map(int, match.split(b"."))) for match in re.findall(rb"GLIBCXX_(\d+(?:\.\d+){1,3})\0", content)}
    return "GLIBCXX_" + ".".join(map(str, max(versions))) if versions else ""
