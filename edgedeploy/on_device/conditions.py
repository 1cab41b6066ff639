"""The state of the board around a measurement: what may have slowed it, as far as the board tells."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .fields import find, read_number, read_text, run_tool

if TYPE_CHECKING:
    from collections.abc import Iterable

_CPU = "sys/devices/system/cpu/cpu[0-9]*/cpufreq/"
# Cooling devices that slow the board down, and no fans: Linux, drivers/thermal/cpufreq_cooling.c and devfreq_cooling.c,
# drivers/acpi/processor_thermal.c, drivers/thermal/intel/intel_powerclamp.c; NVIDIA's own kernels have alerts.
_SLOWING = re.compile(r"(thermal-)?(cpufreq|devfreq)-|Processor$|intel_powerclamp$|[a-z0-9]+-throttle-alert$")


def snapshot(root: str = "/") -> dict[str, Any]:
    """Return the fields of records.Snapshot; None or empty where the board does not tell."""
    governors = [read_text(root, path) for path in find(root, _CPU + "scaling_governor")]
    frequencies_khz = [read_number(root, path) for path in find(root, _CPU + "scaling_cur_freq")]
    battery = battery_folder(root)
    load = read_text(root, "proc/loadavg")
    return {
        "governors": [governor for governor in governors if governor],
        "frequencies_mhz": [khz / 1000 for khz in frequencies_khz if khz is not None],
        "temperatures_c": temperatures(root),
        "throttled": parse_throttled(run_tool(root, "vcgencmd", "get_throttled") or ""),
        "cooling": parse_cooling(
            (read_text(root, folder + "/type") or "", read_number(root, folder + "/cur_state"))
            for folder in find(root, "sys/class/thermal/cooling_device*")
        ),
        "load_1m": parse_load(load or ""),
        "free_memory_bytes": parse_meminfo(read_text(root, "proc/meminfo") or "", "MemAvailable"),
        "battery_percent": read_number(root, battery + "/capacity") if battery else None,
        "charging": parse_charging(read_text(root, battery + "/status") or "") if battery else None,
    }


def temperatures(root: str) -> dict[str, float]:
    """Return degrees Celsius by the kernel's name of the thermal zone."""
    found: dict[str, float] = {}
    for folder in find(root, "sys/class/thermal/thermal_zone*"):
        millidegrees = read_number(root, folder + "/temp")
        # Jetson boards report -256 degrees for a sensor that is powered down.
        if millidegrees is None or not -100_000 < millidegrees < 300_000:
            continue
        name = read_text(root, folder + "/type") or folder.rpartition("/")[2]
        if name in found:
            name += " " + folder.rpartition("thermal_zone")[2]
        found[name] = millidegrees / 1000
    return found


def parse_cooling(devices: Iterable[tuple[str, float | None]]) -> dict[str, int]:
    """Return how far the kernel slows the board down for its heat, by cooling device; 0 is not at all.

    `devices` are the type of each cooling device and its state, None where it does not tell.
    """
    found: dict[str, int] = {}
    for name, state in devices:
        if state is not None and slows(name):
            # Where each core has one of the same name, the slowest core is what counts; a clamp at rest says -1.
            found[name] = max(found.get(name, 0), int(state))
    return found


def slows(cooling_device: str) -> bool:
    """Return whether a cooling device of that type cools by making the board slower."""
    return _SLOWING.match(cooling_device) is not None


def battery_folder(root: str) -> str | None:
    """Return the folder of the battery that feeds the board, not that of a mouse."""
    for folder in find(root, "sys/class/power_supply/*"):
        if read_text(root, folder + "/type") == "Battery" and read_text(root, folder + "/scope") != "Device":
            return folder
    return None


def parse_throttled(text: str) -> int | None:
    """Return the bits of `vcgencmd get_throttled` ("throttled=0x50000"), None where it gave none."""
    match = re.search(r"throttled=(0x[0-9a-fA-F]{1,8})\b", text)
    return int(match.group(1), 16) if match else None


def parse_load(text: str) -> float | None:
    """Return the one-minute load of /proc/loadavg."""
    match = re.match(r"(\d+(?:\.\d+)?) ", text)
    return float(match.group(1)) if match else None


def parse_meminfo(text: str, field: str) -> int | None:
    """Return one field of /proc/meminfo, /proc/self/status or smaps_rollup in bytes."""
    match = re.search(rf"^{re.escape(field)}:\s*(\d+) kB$", text, re.MULTILINE)
    return int(match.group(1)) * 1024 if match else None


def parse_charging(status: str) -> bool | None:
    """Return whether something else than the battery feeds the board, None where its status does not tell."""
    return {"Discharging": False, "Charging": True, "Full": True, "Not charging": True}.get(status)
