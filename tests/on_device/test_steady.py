"""The warm-up ends when times settle and not before; the timing loop times nothing but the call."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import pytest

from edgedeploy.on_device.steady import Agreement, steady, warm_up


def runs_until_agreed(times: Callable[[int], int], most: int = 3000) -> int | None:
    agreement = Agreement()
    return next((run + 1 for run in range(most) if agreement.add(times(run))), None)


def test_constant_times_agree_after_forty_runs() -> None:
    assert runs_until_agreed(lambda _: 1000) == 40


def test_a_step_down_is_waited_for() -> None:
    """After 100 slow runs at twice the time, the slow average must come down to 4 % of the fast one."""
    settled = runs_until_agreed(lambda run: 2000 if run < 30 else 1000)
    assert settled is not None
    # The slow average forgets .5 % a run: its excess, 100 % of the final time at first, is 4 % after 642 runs.
    assert 30 + 600 < settled < 30 + 642 + 60


def test_times_that_keep_growing_never_agree() -> None:
    assert runs_until_agreed(lambda run: int(1000 * 1.01**run)) is None


class Runs:
    """Counts calls and takes a while over each."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.count = 0
        self.seconds = seconds
        self.collecting: set[bool] = set()

    def __call__(self, prepared: Any) -> None:
        assert prepared == "prepared"
        self.count += 1
        self.collecting.add(gc.isenabled())
        time.sleep(self.seconds)


def test_warm_up_makes_its_least_runs_and_reports_them() -> None:
    runs = Runs(0.0005)
    made, settled = warm_up(runs, "prepared", 150, 0.0, 20.0)
    assert settled
    assert made == runs.count >= 150


def test_warm_up_lasts_its_least_seconds() -> None:
    start = time.monotonic()
    warm_up(Runs(0.0005), "prepared", 1, 0.2, 20.0)
    assert time.monotonic() - start >= 0.2


def test_warm_up_gives_up_at_its_limit() -> None:
    runs = Runs(0.02)
    made, settled = warm_up(runs, "prepared", 1000, 0.0, 0.1)
    assert not settled
    assert 2 <= made == runs.count < 10


def test_a_warm_up_of_no_time_still_runs_once() -> None:
    assert warm_up(Runs(), "prepared", 0, 0.0, 0.0) == (1, False)


@pytest.mark.parametrize(("least", "most", "expected"), [(25, 1000, 25), (1, 1, 1), (50, 20, 20)])
def test_steady_makes_as_many_runs_as_asked(least: int, most: int, expected: int) -> None:
    runs = Runs()
    assert len(steady(runs, "prepared", least, 0.0, most)) == expected == runs.count


def test_steady_lasts_its_seconds_and_times_each_call() -> None:
    samples = steady(Runs(0.01), "prepared", 1, 0.1, 1000)
    assert 0.1 <= sum(samples) / 1e9 < 1.0
    assert min(samples) >= 9_900_000


def test_no_garbage_is_collected_meanwhile_and_all_is_as_before_after() -> None:
    runs = Runs()
    assert gc.isenabled()
    steady(runs, "prepared", 10, 0.0, 100)
    assert runs.collecting == {False}
    assert gc.isenabled()
