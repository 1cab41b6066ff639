"""A board whose agent dies at any step ends in the old state or the new, never a third."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from edgedeploy.records import DeploySettings
from tests.deploy.releasing import (
    ACTIVATING,
    OLD,
    RECOVERING,
    ROLLING_BACK,
    TAKING_BACK,
    Built,
    Kitchen,
    plain_environment,
)

DEADLINE = pytest.mark.timeout(60)


@DEADLINE
@pytest.mark.fault
@pytest.mark.parametrize(("point", "ends"), ACTIVATING)
def test_power_lost_while_activating(kitchen: Kitchen, third: Built, point: str, ends: tuple[int, int]) -> None:
    """An agent that dies at any step of an activation leaves a board that the next operation sets right."""
    kitchen.kill_at(point, kitchen.operation(3, third))
    assert kitchen.active() == ends
    heard = kitchen.heard()
    assert not heard or heard[-1] == str(ends[0]), "what the application was told last is what is active"


@DEADLINE
@pytest.mark.fault
@pytest.mark.parametrize("point", ["rename:releases/3:after:1", "replace:/current:after:1"])
def test_deploying_again_after_power_was_lost(kitchen: Kitchen, third: Built, point: str) -> None:
    """Recovery is part of the next deploy too, and the number that was lost is not used twice."""
    kitchen.kill_at(point, kitchen.operation(3, third))
    done = kitchen.do(kitchen.operation(4, third))
    assert (done["outcome"], done["before"]) == ("active", 2)
    assert kitchen.active() == (4, 2)
    assert kitchen.heard()[-1] == "4"


@DEADLINE
@pytest.mark.fault
@pytest.mark.parametrize("point", TAKING_BACK)
def test_power_lost_while_rolling_back_by_itself(kitchen: Kitchen, third: Built, point: str) -> None:
    """An agent that dies while it takes a bad release back leaves a board that goes on taking it back."""
    kitchen.kill_at(point, kitchen.operation(3, third, settings=kitchen.unwell))
    assert kitchen.active() == OLD
    assert kitchen.heard()[-1] == "2"


@DEADLINE
@pytest.mark.fault
@pytest.mark.parametrize(("died", "again", "ends"), RECOVERING)
def test_power_lost_while_recovering(
    kitchen: Kitchen, third: Built, died: str, again: str, ends: tuple[int, int]
) -> None:
    """Recovery that dies itself is recovered from: it may be done any number of times."""
    kitchen.kill_at(died, kitchen.operation(3, third))
    kitchen.kill_at(again, {"op": "releases"})
    assert kitchen.active() == ends
    assert kitchen.heard()[-1] == str(ends[0])


@DEADLINE
@pytest.mark.fault
@pytest.mark.parametrize(("point", "ends"), ROLLING_BACK)
def test_power_lost_during_a_rollback(kitchen: Kitchen, point: str, ends: tuple[int, int]) -> None:
    """A rollback that dies is taken back or brought to its end, and both releases stay whole."""
    kitchen.kill_at(point, {"op": "rollback", "number": 1})
    assert kitchen.active() == ends
    assert kitchen.heard()[-1] == str(ends[0])


@DEADLINE
@pytest.mark.fault
def test_a_restart_of_the_whole_board_while_the_application_reloads(
    kitchen: Kitchen, third: Built, tmp_path: Path
) -> None:
    """When everything dies at once in mid-activation, the board comes back with the old release and says so."""
    mark = tmp_path / "reloading"
    slow = DeploySettings(reload=("sh", "-c", f'test "$EDGEDEPLOY_RELEASE" = 2 || {{ touch "{mark}"; sleep 60; }}'))
    kitchen.board.write_job(kitchen.operation(3, third, settings=slow))
    with kitchen.board.start() as agent:
        deadline = time.monotonic() + 30
        while not mark.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        all_of_it = [*psutil.Process(agent.pid).children(recursive=True), psutil.Process(agent.pid)]
        for process in all_of_it:
            process.send_signal(signal.SIGKILL)
    assert str((kitchen.root / "current").readlink()) == "releases/3"
    assert kitchen.active() == OLD
    assert "the activation of release 3 was taken back" in kitchen.state()["recovered"]


@DEADLINE
@pytest.mark.fault
def test_a_board_that_starts_alone_sets_itself_right(kitchen: Kitchen, third: Built) -> None:
    """A start-up script can recover with the agent that the last release left, without any host."""
    kitchen.kill_at("replace:/1.json:after:1", kitchen.operation(3, third))
    recover = [sys.executable, str(kitchen.root / "agent"), "--recover", str(kitchen.root)]
    done = subprocess.run(recover, capture_output=True, timeout=60, env=plain_environment())
    assert (done.returncode, done.stderr) == (0, b"")
    assert str((kitchen.root / "current").readlink()) == "releases/2"
    assert kitchen.heard()[-1] == "2"
    assert kitchen.active() == OLD
    (kitchen.root / "releases" / "journal.json").write_text("{")
    done = subprocess.run(recover, capture_output=True, timeout=60, env=plain_environment())
    assert (done.returncode, b"journal.json is damaged" in done.stderr) == (1, True)


@DEADLINE
@pytest.mark.fault
@pytest.mark.parametrize("running", [True, False])
def test_a_board_that_starts_does_not_wait_for_its_application(kitchen: Kitchen, third: Built, running: bool) -> None:
    """While a board starts, an application that is not well has yet to start and is told nothing; one that runs is."""
    up = kitchen.root / "up"
    up.touch()
    health = ("sh", "-c", 'test -e "${EDGEDEPLOY_CURRENT%/*}/up"')
    settings = DeploySettings(reload=kitchen.settings.reload, health=health, health_timeout_s=50)
    assert kitchen.do(kitchen.operation(3, third, settings=settings))["outcome"] == "active"
    kitchen.kill_at("replace:/1.json:after:1", kitchen.operation(4, third, settings=settings))
    if not running:
        up.unlink()
    recover = [sys.executable, str(kitchen.root / "agent"), "--recover", str(kitchen.root)]
    began_s = time.monotonic()
    done = subprocess.run(recover, capture_output=True, timeout=60, env=plain_environment())
    assert (done.returncode, done.stderr) == (0, b"")
    assert time.monotonic() - began_s < 25
    assert kitchen.heard() == ["3", "4", *(["3"] if running else [])]
    assert kitchen.active() == (3, 2)
