"""Power readings: counters that wrap, firmware that fails politely, batteries that are being charged."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedeploy.on_device.power import (
    SensorError,
    available_sources,
    battery_watts,
    open_source,
    parse_pmic,
    rapl_difference_uj,
)

PMIC = """\
 3V3_SYS_A current(2)=0.10000000A
 VDD_CORE_A current(7)=2.00000000A
 3V3_SYS_V volt(10)=3.30000000V
 VDD_CORE_V volt(15)=0.75000000V
 EXT5V_V volt(24)=5.15000000V
 BATT_V volt(25)=0.00488370V
"""


def lay(root: Path, files: dict[str, str]) -> None:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content + "\n")


def test_a_counter_that_starts_again_is_followed() -> None:
    assert rapl_difference_uj(100, 350, 1000) == 250
    assert rapl_difference_uj(900, 50, 1000) == 150


def test_pmic_pairs_rails_by_name_and_leaves_out_what_has_no_current() -> None:
    assert parse_pmic(PMIC) == pytest.approx(0.1 * 3.3 + 2.0 * 0.75)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('error=1 error_msg="Command not registered"\n', "Command not registered"),
        ("VCHI initialization failed\n", "VCHI initialization failed"),
        ("", "vcgencmd answers ''"),
        (" VDD_CORE_A current(7)=2.0A\n 3V3_SYS_V volt(10)=3.3V\n", "rail VDD_CORE has a current and no voltage"),
    ],
)
def test_pmic_errors_are_no_readings(text: str, message: str) -> None:
    with pytest.raises(SensorError, match=message):
        parse_pmic(text)


def test_nothing_is_not_zero(tmp_path: Path) -> None:
    source, why = open_source(str(tmp_path))
    assert source is None
    assert why == "this board has no power sensor that the agent can read"
    assert available_sources(str(tmp_path)) == []


def test_rapl_follows_the_counter_over_its_wrap(tmp_path: Path) -> None:
    zone = "sys/class/powercap/intel-rapl:0/"
    lay(tmp_path, {zone + "name": "package-0", zone + "max_energy_range_uj": "1000000", zone + "energy_uj": "999000"})
    lay(tmp_path, {f"sys/class/powercap/intel-rapl:0:0/{name}": "7" for name in ("name", "energy_uj")})
    source, _ = open_source(str(tmp_path))
    assert source is not None
    assert source.read() is None
    lay(tmp_path, {zone + "energy_uj": "500"})
    reading = source.read()
    assert reading is not None
    assert 0 < reading[1] < 1e3  # 1.5 mJ over some microseconds; without the wrap it would be negative


def test_ina3221_reads_the_total_rail_and_skips_the_others(tmp_path: Path) -> None:
    hwmon = "sys/bus/i2c/devices/1-0040/hwmon/hwmon3/"
    rails = {"in1_label": "NC", "in2_label": "VDD_CPU", "in3_label": "VDD_IN"}
    values = {"in2_input": "5000", "curr2_input": "100", "in3_input": "5000", "curr3_input": "800"}
    lay(tmp_path, {hwmon + name: value for name, value in {**rails, **values}.items()})
    source, _ = open_source(str(tmp_path))
    assert source is not None
    assert (source.name, source.scope) == ("ina3221", "module (rail VDD_IN)")
    reading = source.read()
    assert reading is not None
    assert reading[1] == pytest.approx(4.0)
    (tmp_path / hwmon / "curr3_input").unlink()
    with pytest.raises(SensorError, match="VDD_IN"):
        source.read()


def test_ina3221_without_a_total_is_no_source(tmp_path: Path) -> None:
    lay(tmp_path, {"sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in1_label": "VDD_GPU"})
    source, why = open_source(str(tmp_path))
    assert source is None
    assert "none of the rails VDD_GPU is the module's input" in why


def test_jetpack_4_tells_milliwatts(tmp_path: Path) -> None:
    iio = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/"
    lay(tmp_path, {iio + "rail_name_0": "POM_5V_IN", iio + "in_power0_input": "2345"})
    source, _ = open_source(str(tmp_path))
    assert source is not None
    reading = source.read()
    assert reading is not None
    assert reading[1] == pytest.approx(2.345)


@pytest.mark.parametrize("current", ["-400000", "400000"])
def test_a_battery_is_read_whatever_the_sign_but_not_while_charging(tmp_path: Path, current: str) -> None:
    battery = "sys/class/power_supply/BAT0/"
    files = {"type": "Battery", "status": "Discharging", "current_now": current, "voltage_now": "4000000"}
    lay(tmp_path, {battery + name: value for name, value in files.items()})
    source, _ = open_source(str(tmp_path))
    assert source is not None
    reading = source.read()
    assert reading is not None
    assert reading[1] == pytest.approx(1.6)
    lay(tmp_path, {battery + "status": "Charging"})
    with pytest.raises(SensorError, match="the battery's status is 'Charging'"):
        source.read()


def test_a_gauge_that_counts_in_other_units_is_not_believed() -> None:
    with pytest.raises(SensorError, match=r"1\.6 mW, which no running board draws"):
        battery_watts(400, 4_000_000)
    with pytest.raises(SensorError, match="cannot be read"):
        battery_watts(None, 4_000_000)


def test_a_mouse_is_no_battery_of_the_board(tmp_path: Path) -> None:
    mouse = "sys/class/power_supply/hidpp_battery_0/"
    files = {"type": "Battery", "scope": "Device", "current_now": "1", "voltage_now": "1"}
    lay(tmp_path, {mouse + name: value for name, value in files.items()})
    assert open_source(str(tmp_path))[0] is None
