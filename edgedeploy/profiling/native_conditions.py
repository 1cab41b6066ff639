"""The state of a board that has no agent, as a shell can read it there, in the fields that the agent tells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgedeploy.board.android import parse_getprop, phone_name
from edgedeploy.on_device.conditions import parse_charging, parse_cooling, parse_load, parse_meminfo
from edgedeploy.on_device.facts import parse_emulated, parse_isa
from edgedeploy.records import Snapshot

# One line a file, `/path = value`. Much of it is not for the shell of a phone to read: then it is not there.
SNAPSHOT_SCRIPT = """
for f in /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor \
/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq \
/sys/class/thermal/thermal_zone*/type /sys/class/thermal/thermal_zone*/temp \
/sys/class/thermal/cooling_device*/type /sys/class/thermal/cooling_device*/cur_state \
/sys/class/power_supply/*/type /sys/class/power_supply/*/scope \
/sys/class/power_supply/*/capacity /sys/class/power_supply/*/status /proc/loadavg; do
  v=
  { read -r v <"$f"; } 2>/dev/null
  [ -n "$v" ] && echo "$f = $v"
done
echo "/proc/meminfo = $(grep MemAvailable /proc/meminfo 2>/dev/null)"
command -v dumpsys >/dev/null 2>&1 && dumpsys battery 2>/dev/null
exit 0
"""

FACTS_SCRIPT = """
echo "cpus=$(nproc 2>/dev/null)"
command -v getprop >/dev/null 2>&1 && getprop 2>/dev/null
echo cpuinfo=
cat /proc/cpuinfo 2>/dev/null
exit 0
"""

# BatteryManager: BATTERY_STATUS_CHARGING 2, DISCHARGING 3, NOT_CHARGING 4, FULL 5
_STATUS = {"2": True, "3": False, "4": True, "5": True}


@dataclass(frozen=True, slots=True)
class BareFacts:
    """What a board without an agent is; `phone` is empty where it is none."""

    cpus: int
    isa: tuple[str, ...]
    emulated: bool
    phone: str


def parse_facts(text: str, machine: str) -> BareFacts:
    """Read what FACTS_SCRIPT printed on a board whose `uname -m` says `machine`."""
    head, _, cpuinfo = text.partition("cpuinfo=\n")
    cpus = re.search(r"^cpus=(\d{1,4})$", head, re.MULTILINE)
    return BareFacts(
        cpus=int(cpus[1]) if cpus else max(1, len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE))),
        isa=tuple(parse_isa(cpuinfo)),
        emulated=parse_emulated(machine, cpuinfo),
        phone=phone_name(parse_getprop(head)),
    )


def parse_snapshot(text: str) -> Snapshot:
    """Read what SNAPSHOT_SCRIPT printed; what it does not hold is None or empty."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        path, equals, value = line.partition(" = ")
        if path.startswith("/") and equals:
            values[path] = value.strip()
    battery = _battery(values)
    level = re.search(r"^\s*level: (\d{1,3})$", text, re.MULTILINE)
    status = re.search(r"^\s*status: (\d)$", text, re.MULTILINE)
    percent = _number(values.get(f"{battery}/capacity")) if battery else None
    charging = parse_charging(values.get(f"{battery}/status", "")) if battery else None
    frequencies = (_number(value) for path, value in values.items() if path.endswith("/scaling_cur_freq"))
    return Snapshot(
        governors=tuple(value for path, value in values.items() if path.endswith("/scaling_governor")),
        frequencies_mhz=tuple(khz / 1000 for khz in frequencies if khz is not None),
        temperatures_c=_temperatures(values),
        cooling=parse_cooling(
            (values.get(path.replace("/cur_state", "/type"), ""), _number(value))
            for path, value in values.items()
            if path.endswith("/cur_state")
        ),
        load_1m=parse_load(values.get("/proc/loadavg", "")),
        free_memory_bytes=parse_meminfo(values.get("/proc/meminfo", ""), "MemAvailable"),
        battery_percent=float(level[1]) if percent is None and level else percent,
        charging=_STATUS.get(status[1]) if charging is None and status else charging,
    )


def _temperatures(values: Mapping[str, str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for path, value in values.items():
        zone, _, leaf = path.rpartition("/")
        millidegrees = _number(value) if leaf == "temp" and "/thermal_zone" in zone else None
        # what is switched off tells what cannot be
        if millidegrees is None or not -100_000 < millidegrees < 300_000:
            continue
        name = values.get(f"{zone}/type") or zone.rpartition("/")[2]
        found[f"{name} {zone.rpartition('thermal_zone')[2]}" if name in found else name] = millidegrees / 1000
    return found


def _battery(values: Mapping[str, str]) -> str | None:
    """The battery that feeds the board, not that of a mouse."""
    for path, value in values.items():
        folder = path.removesuffix("/type")
        is_battery = "/power_supply/" in path and path.endswith("/type") and value == "Battery"
        if is_battery and values.get(f"{folder}/scope") != "Device":
            return folder
    return None


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and re.fullmatch(r"-?\d{1,12}", text) else None
