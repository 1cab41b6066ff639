"""Energy is an integral over what was really read, or a reason; never a zero."""

from __future__ import annotations

import time

import pytest

from edgedeploy.on_device.energy import Sampler, Steady, energy_per_inference, integrate_j
from edgedeploy.on_device.power import SensorError, Source

S = 1_000_000_000


def source(rate_hz: float = 10.0) -> Source:
    return Source("rapl", "soc", rate_hz, lambda: (time.monotonic_ns(), 2.0))


def readings(low: float, high: float, start: float = 0, end: float = 12) -> list[tuple[int, float]]:
    """Ten readings a second: `low` watts, but `high` from second 2 to 10."""
    moments = [start + tick / 10 for tick in range(int((end - start) * 10) + 1)]
    return [(int(moment * S), high if 2 <= moment <= 10 else low) for moment in moments]


def phase(start: float = 3, end: float = 9, runs: int = 600) -> Steady:
    return Steady((int(start * S), int(end * S)), runs, ((0, int(1.9 * S)), (int(10.2 * S), 12 * S)))


def test_constant_power_times_time() -> None:
    assert integrate_j(readings(2, 2), (3 * S, 9 * S)) == pytest.approx(12.0)


def test_the_trapezoid_is_cut_at_the_window() -> None:
    ramp = [(0, 0.0), (10 * S, 10.0)]
    assert integrate_j(ramp, (2 * S, 4 * S)) == pytest.approx(6.0)


def test_uneven_times_weigh_by_their_length() -> None:
    uneven = [(0, 1.0), (1 * S, 1.0), (2 * S, 3.0), (10 * S, 3.0)]
    assert integrate_j(uneven, (0, 10 * S)) == pytest.approx(1 + 2 + 24)


def test_beyond_the_readings_power_is_held() -> None:
    assert integrate_j([(5 * S, 2.0)], (0, 10 * S)) == pytest.approx(20.0)


def test_energy_total_and_above_idle() -> None:
    energy, why = energy_per_inference(source(), readings(1, 4), [phase()])
    assert why == ""
    assert energy is not None
    assert energy["total_mj"] == pytest.approx(4 * 6 / 600 * 1e3)
    assert energy["above_idle_mj"] == pytest.approx(3 * 6 / 600 * 1e3)
    assert (energy["mean_w"], energy["idle_w"]) == (pytest.approx(4), pytest.approx(1))
    assert energy["coverage"] == 1.0
    assert energy["rate_hz"] == pytest.approx(10, rel=0.05)
    assert (energy["source"], energy["scope"]) == ("rapl", "soc")


def test_phases_add_up() -> None:
    both, _ = energy_per_inference(source(), readings(1, 4), [phase(3, 6, 300), phase(6, 9, 300)])
    whole, _ = energy_per_inference(source(), readings(1, 4), [phase()])
    assert both is not None
    assert whole is not None
    assert both["total_mj"] == pytest.approx(whole["total_mj"])


def test_gaps_make_it_absent_with_the_reason() -> None:
    gappy = [reading for reading in readings(1, 4) if not 5 * S < reading[0] < 6 * S]
    energy, why = energy_per_inference(source(), gappy, [phase()], "the battery is charging")
    assert energy is None
    assert why == "rapl gave only 87% of the expected readings (the battery is charging)"


def test_a_short_phase_is_too_short() -> None:
    energy, why = energy_per_inference(source(), readings(1, 4), [phase(3, 3.2)])
    assert energy is None
    assert "0.2 s of steady phase are too short for rapl, read 10 times a second" in why


def test_no_idle_readings_no_energy() -> None:
    energy, why = energy_per_inference(source(), readings(1, 4, start=2), [phase()])
    assert energy is None
    assert "too few readings of the idle board" in why


def test_the_sampler_reads_at_its_rate_and_keeps_the_last_error() -> None:
    calls = 0

    def read() -> tuple[int, float]:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise SensorError("every other one fails")
        return time.monotonic_ns(), 3.0

    sampler = Sampler(Source("fake", "soc", 100.0, read))
    with sampler.running():
        start, end = sampler.idle()
    assert end - start >= S
    assert 20 <= calls <= 150
    assert len(sampler.readings) == calls // 2
    assert sampler.last_error == "every other one fails"
    before = calls
    time.sleep(0.05)
    assert calls == before
