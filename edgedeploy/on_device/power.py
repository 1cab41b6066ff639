"""Power sensors that an agent can read on the board itself; one opener per kind, in a table."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from .conditions import battery_folder, parse_charging
from .fields import find, read_number, read_text, run_tool

if TYPE_CHECKING:
    from collections.abc import Callable

_TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")  # the module's input on Jetson boards; the other rails are parts of it


class NoSource(Exception):
    """The sensor is not on this board (no message), or is of no use to us (the message says why)."""


class SensorError(Exception):
    """The sensor is there and gave no reading this time."""


class Source:
    """One sensor.

    `name` is the word device profiles use, `scope` says what of the board it sees, `rate_hz` how often to read it.
    `read` returns a monotonic time in ns and watts, or None where it only now got its first reading; raises
    SensorError.
    """

    def __init__(self, name: str, scope: str, rate_hz: float, read: Callable[[], tuple[int, float] | None]) -> None:
        self.name = name
        self.scope = scope
        self.rate_hz = rate_hz
        self.read = read


def open_source(root: str = "/") -> tuple[Source | None, str]:
    """Return the best source of this board, or None and why there is none."""
    opened = [(name, _try(opener, root)) for name, opener in SOURCES]
    for _, source in opened:
        if isinstance(source, Source):
            return source, ""
    reasons = [f"{name}: {reason}" for name, reason in opened if reason]
    return None, "; ".join(["this board has no power sensor that the agent can read", *reasons])


def available_sources(root: str = "/") -> list[str]:
    """Return the names of all sources that can be read here, best first."""
    return [name for name, opener in SOURCES if isinstance(_try(opener, root), Source)]


def _try(opener: Callable[[str], Source], root: str) -> Source | str:
    try:
        return opener(root)
    except NoSource as error:
        return str(error)


# -- RAPL: /sys/class/powercap (Documentation/power/powercap/powercap.rst) --------------------------------------


def open_rapl(root: str) -> Source:
    """Open the energy counters of all processor packages."""
    zones = [path for path in find(root, "sys/class/powercap/intel-rapl:*") if re.search(r"intel-rapl:\d+$", path)]
    packages = [zone for zone in zones if (read_text(root, zone + "/name") or "").startswith("package")]
    if not packages:
        raise NoSource
    ranges = [read_number(root, zone + "/max_energy_range_uj") for zone in packages]
    if any(read_number(root, zone + "/energy_uj") is None for zone in packages) or None in ranges:
        raise NoSource("the energy counters are there and only root may read them")
    last: list[tuple[int, list[float]]] = []

    def read() -> tuple[int, float] | None:
        now_ns, counters = time.monotonic_ns(), []
        for zone in packages:
            counter = read_number(root, zone + "/energy_uj")
            if counter is None:
                raise SensorError(f"{zone}/energy_uj cannot be read")
            counters.append(counter)
        before = last.pop() if last else None
        last.append((now_ns, counters))
        if before is None or now_ns <= before[0]:
            return None
        used_uj = sum(rapl_difference_uj(old, new, span or 0) for old, new, span in zip(before[1], counters, ranges))
        # A counter gives the mean power since its last reading: it belongs to the middle of that time.
        return (before[0] + now_ns) // 2, used_uj * 1e3 / (now_ns - before[0])

    return Source("rapl", f"soc ({len(packages)} processor package(s))", 10.0, read)


def rapl_difference_uj(before: float, after: float, max_range_uj: float) -> float:
    """Return the energy between two readings of a counter that starts again at zero after `max_range_uj`."""
    return after - before if after >= before else after - before + max_range_uj


# -- INA3221 on Jetson boards: hwmon since JetPack 5, an iio driver in JetPack 4 ---------------------------------


def open_ina3221(root: str) -> Source:
    """Open the module's input rail."""
    labels = {path: read_text(root, path) for path in find(root, "sys/bus/i2c/devices/*/hwmon/hwmon*/in[0-9]*_label")}
    names = {
        path: read_text(root, path) for path in find(root, "sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*")
    }
    for path, rail in labels.items():
        if rail in _TOTAL_RAILS:
            folder, channel = path.rpartition("/in")[0], path.rpartition("/in")[2].partition("_")[0]
            return _ina_hwmon(root, rail, f"{folder}/in{channel}_input", f"{folder}/curr{channel}_input")
    for path, rail in names.items():
        if rail in _TOTAL_RAILS:
            return _ina_iio(root, rail, path.replace("rail_name_", "in_power") + "_input")
    rails = sorted({rail for rail in [*labels.values(), *names.values()] if rail and rail != "NC"})
    raise NoSource(f"none of the rails {', '.join(rails)} is the module's input" if rails else "")


def _ina_hwmon(root: str, rail: str, millivolts_path: str, milliamperes_path: str) -> Source:
    def read() -> tuple[int, float]:
        millivolts, milliamperes = read_number(root, millivolts_path), read_number(root, milliamperes_path)
        if millivolts is None or milliamperes is None:
            raise SensorError(f"rail {rail} of the INA3221 cannot be read")
        return time.monotonic_ns(), millivolts * milliamperes / 1e6

    return Source("ina3221", f"module (rail {rail})", 10.0, read)


def _ina_iio(root: str, rail: str, milliwatts_path: str) -> Source:
    def read() -> tuple[int, float]:
        milliwatts = read_number(root, milliwatts_path)
        if milliwatts is None:
            raise SensorError(f"rail {rail} of the INA3221 cannot be read")
        return time.monotonic_ns(), milliwatts / 1e3

    return Source("ina3221", f"module (rail {rail})", 10.0, read)


# -- Raspberry Pi 5: the PMIC's converters through the firmware --------------------------------------------------


def open_pmic(root: str) -> Source:
    """Open the rails of the Pi 5's PMIC."""
    text = run_tool(root, "vcgencmd", "pmic_read_adc")
    if text is None:
        raise NoSource
    try:
        parse_pmic(text)
    except SensorError as error:
        raise NoSource(str(error)) from error

    def read() -> tuple[int, float]:
        start_ns = time.monotonic_ns()
        watts = parse_pmic(run_tool(root, "vcgencmd", "pmic_read_adc") or "")
        return (start_ns + time.monotonic_ns()) // 2, watts

    # The firmware renews the values ten times a second at most, and every reading starts a process.
    return Source("pi5-pmic", "board without USB and HAT loads (PMIC rails)", 5.0, read)


def parse_pmic(text: str) -> float:
    """Return the watts of all rails that have a current. Raises SensorError.

    The firmware's errors arrive with exit code 0, hence as text. EXT5V_V and BATT_V are voltages without a
    current and no rails.
    """
    amperes = dict(re.findall(r"^\s*(\w+)_A current\(\d+\)=([\d.]+)A\s*$", text, re.MULTILINE))
    volts = dict(re.findall(r"^\s*(\w+)_V volt\(\d+\)=([\d.]+)V\s*$", text, re.MULTILINE))
    unpaired = sorted(set(amperes) - set(volts))
    if not amperes or unpaired:
        said = text.strip().partition("\n")[0][:120]
        raise SensorError(
            f"rail {unpaired[0]} has a current and no voltage" if unpaired else f"vcgencmd answers {said!r}"
        )
    return sum(float(amperes[rail]) * float(volts[rail]) for rail in amperes)


# -- Batteries: /sys/class/power_supply (Documentation/ABI/testing/sysfs-class-power) ----------------------------


def open_battery(root: str) -> Source:
    """Open the gauge of the battery that feeds the board."""
    folder = battery_folder(root)
    if folder is None:
        raise NoSource
    has_current = None not in (read_number(root, folder + "/current_now"), read_number(root, folder + "/voltage_now"))
    if not has_current and read_number(root, folder + "/power_now") is None:
        raise NoSource("the battery tells neither current nor power")

    def read() -> tuple[int, float]:
        status = read_text(root, folder + "/status") or ""
        if parse_charging(status) is not False:
            raise SensorError(f"the battery's status is {status!r}: what it gives is not what the board draws")
        if has_current:
            factors = [read_number(root, folder + name) for name in ("/current_now", "/voltage_now")]
        else:
            factors = [read_number(root, folder + "/power_now"), 1e6]
        return time.monotonic_ns(), battery_watts(factors[0], factors[1])

    return Source("battery", "whole device (battery)", 2.0, read)


def battery_watts(microamperes: float | None, microvolts: float | None) -> float:
    """Return watts; the sign of a discharge differs by maker. Raises SensorError.

    Some makers count in milliamperes against the kernel's rule; no running board draws under 10 mW.
    """
    if microamperes is None or microvolts is None:
        raise SensorError("the battery's gauge cannot be read")
    watts = abs(microamperes * microvolts) / 1e12
    if watts < 0.01:
        raise SensorError(f"the battery's gauge tells {watts * 1e3:.3g} mW, which no running board draws")
    return watts


# name -> opener, the one that sees most of the board first.
SOURCES: tuple[tuple[str, Callable[[str], Source]], ...] = (
    ("ina3221", open_ina3221),
    ("pi5-pmic", open_pmic),
    ("rapl", open_rapl),
    ("battery", open_battery),
)
