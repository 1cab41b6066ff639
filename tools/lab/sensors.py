"""The physics of a virtual board: from its load to heat, power, clocks and what its sensors say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgedeploy.on_device.conditions import slows
from tools.lab.kinds import BoardKind

# Bits of `vcgencmd get_throttled`: frequency capped and throttled, now and since boot.
THROTTLED_NOW, THROTTLED_SINCE_BOOT = 0x6, 0x60000
THROTTLED_STEPS = 3  # of a cooling device that slows the processor down
BATTERY_J = 17 * 3600.0
RAPL_RANGE_UJ = 262_143_328_850
PERIODS_S = (60.0, 300.0, 900.0)  # of /proc/loadavg

# Sensors beside the processor, which it warms only a little.
_FAR_ZONES = {"battery": 0.2, "acpitz": 0.15}


@dataclass(frozen=True, slots=True)
class State:
    """A board at one moment. `load` is counted in busy cores; `used_j` since it was first switched on."""

    temperature_c: float
    load: float = 0.0
    used_j: float = 0.0
    throttled: int = 0
    averages: tuple[float, float, float] = (0.0, 0.0, 0.0)


def at_rest(kind: BoardKind) -> State:
    """The board after it has idled for long."""
    return State(kind.physics.ambient_c + kind.physics.kelvin_per_w * kind.physics.idle_w)


def power_w(kind: BoardKind, load: float) -> float:
    """What the board draws."""
    return kind.physics.idle_w + kind.physics.per_core_w * min(load, kind.cpus)


def advance(kind: BoardKind, state: State, load: float, seconds: float, *, throttle: bool = False) -> State:
    """The board `seconds` later, in which `load` cores were busy; `throttle` holds it at its limit of heat."""
    physics = kind.physics
    watts = power_w(kind, load)
    target_c = physics.ambient_c + physics.kelvin_per_w * watts
    temperature_c = target_c + (state.temperature_c - target_c) * math.exp(-seconds / physics.settling_s)
    if throttle:
        temperature_c = max(temperature_c, physics.throttle_c)
    hot = temperature_c >= physics.throttle_c
    throttled = state.throttled & ~THROTTLED_NOW
    if hot:
        throttled |= THROTTLED_NOW | THROTTLED_SINCE_BOOT
    one, five, fifteen = (
        load + (average - load) * math.exp(-seconds / period_s)
        for average, period_s in zip(state.averages, PERIODS_S, strict=True)
    )
    return replace(
        state,
        temperature_c=temperature_c,
        load=load,
        used_j=state.used_j + watts * seconds,
        throttled=throttled,
        averages=(one, five, fifteen),
    )


def clocks_khz(kind: BoardKind, state: State) -> list[int]:
    """The clock of each core: the lowest at rest or throttled, the highest from half a busy core on."""
    share = 0.0 if state.throttled & THROTTLED_NOW else min(1.0, 2 * state.load)
    return [
        round(core.min_khz + (core.max_khz - core.min_khz) * share) for core in kind.cores for _ in range(core.count)
    ]


def sysfs_values(kind: BoardKind, state: State, tree: Mapping[str, str]) -> dict[str, str]:
    """What changes of the board's /sys, by path; `tree` is all that is in it."""
    values: dict[str, str] = {}
    for core, khz in enumerate(clocks_khz(kind, state)):
        values[f"/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq"] = str(khz)
    zones = [path for path in tree if "/thermal_zone" in path and path.endswith("/temp") and tree[path]]
    near = [path for path in zones if _zone_type(tree, path) not in _FAR_ZONES]
    hottest = max((int(tree[path]) for path in near), default=0)
    above_c = state.temperature_c - kind.physics.ambient_c
    for path in zones:
        share = _FAR_ZONES.get(_zone_type(tree, path))
        if share is not None:
            values[path] = str(round(1000 * (kind.physics.ambient_c + share * above_c)))
        else:
            values[path] = str(round(1000 * state.temperature_c) + int(tree[path]) - hottest)
    steps = THROTTLED_STEPS if state.throttled & THROTTLED_NOW else 0
    for path in tree:
        if path.endswith("/cur_state") and slows(tree[path.replace("/cur_state", "/type")]):
            values[path] = str(steps)
    watts = power_w(kind, state.load)
    for path, value in tree.items():
        if path.endswith("_label") and value in ("VDD_IN", "VDD_CPU_GPU_CV"):
            part_w = watts if value == "VDD_IN" else 0.6 + watts - kind.physics.idle_w
            volts = int(tree[path.replace("_label", "_input")]) / 1000
            current = path.replace("/in", "/curr").replace("_label", "_input")
            values[current] = str(round(1000 * part_w / volts / 8) * 8)  # the INA3221 counts in steps of 8 mA here
        elif path.endswith("/battery/current_now"):
            volts = int(tree[path.replace("current", "voltage")]) / 1e6
            values[path] = str(-round(1e6 * watts / volts))
        elif path.endswith("/battery/capacity"):
            values[path] = str(max(1, int(value) - int(100 * state.used_j / BATTERY_J)))
        elif path.endswith("/energy_uj"):
            values[path] = str((int(value) + round(state.used_j * 1e6)) % RAPL_RANGE_UJ)
    return values


def firmware_values(kind: BoardKind, state: State, pmic: str | None) -> dict[str, str]:
    """What a Raspberry Pi's firmware answers, by command; `pmic` is a sample of `pmic_read_adc`."""
    values = {
        "get_throttled": f"throttled={state.throttled:#x}",
        "measure_temp": f"temp={state.temperature_c:.1f}'C",
        "measure_clock": f"frequency(0)={clocks_khz(kind, state)[0] * 1000}",
    }
    if pmic is not None:
        values["pmic_read_adc"] = pmic_text(pmic, power_w(kind, state.load)) if "VDD_CORE" in pmic else pmic.rstrip()
    return values


def pmic_text(sample: str, watts: float) -> str:
    """The sample with the current of the processor's rail such that all rails together draw `watts`."""
    fields = {line.split()[0]: line.split("=")[1].rstrip("AV") for line in sample.splitlines() if "=" in line}
    volts = {name[:-2]: float(value) for name, value in fields.items() if name.endswith("_V")}
    others_w = sum(
        float(value) * volts[name[:-2]]
        for name, value in fields.items()
        if name.endswith("_A") and name != "VDD_CORE_A"
    )
    amperes = max(0.0, watts - others_w) / volts["VDD_CORE"]
    lines = []
    for line in sample.rstrip("\n").splitlines():
        head, equals, _ = line.partition("=")
        lines.append(f"{head}{equals}{amperes:.8f}A" if "VDD_CORE_A" in head else line)
    return "\n".join(lines)


def proc_values(kind: BoardKind, state: State, *, up_s: float, idle_s: float, used_bytes: int) -> dict[str, str]:
    """The board's /proc/uptime, loadavg and meminfo."""
    total_kb = kind.memory_bytes // 1024
    available_kb = max(0, total_kb - used_bytes // 1024)
    one, five, fifteen = state.averages
    return {
        "uptime": f"{up_s:.2f} {idle_s:.2f}",
        "loadavg": f"{one:.2f} {five:.2f} {fifteen:.2f} {1 + round(state.load)}/64 1",
        "meminfo": "\n".join(
            f"{name + ':':<16}{size_kb:8d} kB"
            for name, size_kb in (
                ("MemTotal", total_kb),
                ("MemFree", available_kb),
                ("MemAvailable", available_kb),
                ("Buffers", 0),
                ("Cached", 0),
                ("SwapCached", 0),
                ("SwapTotal", 0),
                ("SwapFree", 0),
            )
        ),
    }


def _zone_type(tree: Mapping[str, str], path: str) -> str:
    return tree.get(path.removesuffix("temp") + "type", "")
