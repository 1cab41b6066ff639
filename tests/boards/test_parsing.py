"""Runs the agent's readers over what boards answer: power, conditions and facts."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedeploy.on_device import conditions, facts, power
from edgedeploy.plan import load_profiles
from tests.boards import samples


@pytest.fixture
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The files of the board that the test is parametrised with."""
    return str(samples.lay_out(request.param, tmp_path))


@pytest.mark.parametrize(
    ("root", "scope", "watts"),
    [
        # V x A summed over the twelve rails that have a current.
        ("pi5", "board without USB and HAT loads (PMIC rails)", 3.042451),
        ("jetson-nano", "module (rail POM_5V_IN)", 1.742),
        ("jetson-xavier-nx", "module (rail VDD_IN)", 5.064 * 0.928),
        ("jetson-orin-nano", "module (rail VDD_IN)", 5.040 * 0.904),
        ("pixel-8", "whole device (battery)", 4.0125 * 0.412343),
    ],
    indirect=["root"],
)
def test_power_is_read_from_the_source_that_the_profile_names(
    root: str, scope: str, watts: float, request: pytest.FixtureRequest
) -> None:
    board = request.node.callspec.params["root"]
    source, why = power.open_source(root)
    assert source is not None, why
    assert source.name == load_profiles()[board].power_source
    assert source.scope == scope
    reading = source.read()
    assert reading is not None
    assert reading[1] == pytest.approx(watts, abs=5e-4)


@pytest.mark.parametrize("root", ["pi-zero-2w", "pi3", "pi4"], indirect=True)
def test_a_board_without_a_sensor_says_so(root: str) -> None:
    source, why = power.open_source(root)
    assert source is None
    assert why.startswith("this board has no power sensor that the agent can read")


@pytest.mark.parametrize("root", ["pi4"], indirect=True)
def test_the_firmware_s_refusal_is_no_reading(root: str) -> None:
    assert "Command not registered" in power.open_source(root)[1]


@pytest.mark.parametrize("root", ["x86-64"], indirect=True)
def test_rapl_counts_packages_alone_and_over_the_wrap(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, why = power.open_source(root)
    assert source is not None, why
    assert source.scope == "soc (1 processor package(s))"
    ticks = iter([0, 2_000_000_000])
    monkeypatch.setattr("time.monotonic_ns", lambda: next(ticks))
    assert source.read() is None
    # The sample stands 850 microjoules before the wrap: 3 J later the counter has begun anew.
    (Path(root) / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("2999150\n")
    reading = source.read()
    assert reading is not None
    assert reading[0] == 1_000_000_000
    assert reading[1] == pytest.approx(1.5)


@pytest.mark.parametrize("root", ["x86-64"], indirect=True)
def test_rapl_that_only_root_may_read_is_no_source(root: str) -> None:
    for zone in Path(root).glob("sys/class/powercap/*/energy_uj"):
        zone.unlink()
    source, why = power.open_source(root)
    assert source is None
    assert "only root may read them" in why


@pytest.mark.parametrize("root", ["android-arm64"], indirect=True)
def test_a_charging_battery_gives_no_reading(root: str) -> None:
    source, _ = power.open_source(root)
    assert source is not None
    with pytest.raises(power.SensorError, match="'Charging'"):
        source.read()


@pytest.mark.parametrize("root", ["android-arm64"], indirect=True)
def test_a_gauge_in_milliampere_is_not_taken_for_microampere(root: str) -> None:
    (Path(root) / "sys/class/power_supply/battery/status").write_text("Discharging\n")
    source, _ = power.open_source(root)
    assert source is not None
    with pytest.raises(power.SensorError, match="which no running board draws"):
        source.read()


@pytest.mark.parametrize(
    ("root", "bits"),
    [("pi-zero-2w", 0), ("pi3", 0x80008), ("pi4", 0x50005), ("pi5", 0), ("jetson-nano", None), ("x86-64", None)],
    indirect=["root"],
)
def test_throttle_bits(root: str, bits: int | None) -> None:
    assert conditions.snapshot(root)["throttled"] == bits


@pytest.mark.parametrize(
    ("root", "zones"),
    [
        ("pi5", {"cpu-thermal": 51.45}),
        ("jetson-xavier-nx", {"CPU-therm", "AUX-therm", "AO-therm", "PMIC-Die", "iwlwifi_1"}),
        ("jetson-orin-nano", {f"{n}-thermal" for n in ("cpu", "gpu", "soc0", "soc1", "soc2", "tj")}),
        ("x86-64", {"acpitz": 27.8, "x86_pkg_temp": 52.0}),
    ],
    indirect=["root"],
)
def test_a_sensor_that_sleeps_has_no_temperature(root: str, zones: dict[str, float] | set[str]) -> None:
    found = conditions.snapshot(root)["temperatures_c"]
    assert (found if isinstance(zones, dict) else set(found)) == zones


@pytest.mark.parametrize(
    ("root", "cooling"),
    [
        ("jetson-orin-nano", {"cpufreq-cpu0": 0, "cpufreq-cpu4": 0}),
        ("x86-64", {"Processor": 0, "intel_powerclamp": 0}),
        ("pi4", {}),
    ],
    indirect=["root"],
)
def test_what_would_slow_the_board_down_is_at_rest(root: str, cooling: dict[str, int]) -> None:
    assert conditions.snapshot(root)["cooling"] == cooling


@pytest.mark.parametrize(
    ("root", "governor", "frequencies_mhz"),
    [
        ("pi3", "ondemand", [1200.0] * 4),
        ("pixel-8", "sched_pixel", [1098.0] * 4 + [1164.0] * 4 + [1557.0]),
        ("x86-64", "powersave", [2600.0, 2599.998, 1800.012, 400.0]),
    ],
    indirect=["root"],
)
def test_governor_and_frequency_of_each_core(root: str, governor: str, frequencies_mhz: list[float]) -> None:
    state = conditions.snapshot(root)
    assert state["governors"] == [governor] * len(frequencies_mhz)
    assert state["frequencies_mhz"] == frequencies_mhz


@pytest.mark.parametrize(
    ("root", "percent", "charging"),
    [("pixel-8", 78, False), ("android-arm64", 100, True), ("pi5", None, None)],
    indirect=["root"],
)
def test_battery(root: str, percent: float | None, charging: bool | None) -> None:
    state = conditions.snapshot(root)
    assert (state["battery_percent"], state["charging"]) == (percent, charging)


@pytest.mark.parametrize("root", samples.boards(), indirect=True)
def test_every_board_tells_memory_and_state(root: str) -> None:
    state = conditions.snapshot(root)
    assert state["free_memory_bytes"] > 100 << 20
    assert state["governors"]
    assert state["temperatures_c"]


@pytest.mark.parametrize("board", samples.boards())
def test_the_processor_has_what_its_profile_promises(board: str) -> None:
    assert set(facts.parse_isa(samples.text(board, "cpuinfo.txt"))) >= set(load_profiles()[board].isa)


@pytest.mark.parametrize("board", samples.boards())
def test_no_sample_is_taken_for_an_emulator(board: str) -> None:
    assert facts.parse_emulated(load_profiles()[board].arch, samples.text(board, "cpuinfo.txt")) is False


@pytest.mark.parametrize(
    ("root", "name"),
    [
        ("pi5", "Raspberry Pi 5 Model B Rev 1.0"),
        ("jetson-nano", "NVIDIA Jetson Nano Developer Kit"),
        ("x86-64", "Intel(R) Core(TM) i5-1145G7E @ 2.60GHz"),
    ],
    indirect=["root"],
)
def test_the_board_s_own_name(root: str, name: str, tmp_path: Path) -> None:
    found = facts.board_facts(str(tmp_path), dict, root)
    assert found["model_name"] == name
    assert found["memory_bytes"] > 1 << 30
