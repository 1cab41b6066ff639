"""An agent that is asked to end in the midst of an activation leaves the old state or the new behind it, at once."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import psutil
import pytest

from edgedeploy.records import DeploySettings
from tests.deploy.releasing import ACTIVATING, OLD, Built, Kitchen

pytestmark = [pytest.mark.fault, pytest.mark.timeout(60)]


def lying(kitchen: Kitchen) -> tuple[int, int]:
    """The active release and the one before as they lie there, without any agent that might set them right."""
    releases = kitchen.root / "releases"
    current, previous = (int((kitchen.root / link).readlink().name) for link in ("current", "previous"))
    there = {path.name for path in releases.iterdir()} - {"highest", "recovered.json"}
    assert there == {str(current), str(previous)}
    assert not list((kitchen.root / "tmp").iterdir())
    assert not [path for path in kitchen.root.iterdir() if path.name.endswith(".next")]
    return current, previous


@pytest.mark.parametrize(("point", "ends"), ACTIVATING)
def test_stopped_while_activating(kitchen: Kitchen, third: Built, point: str, ends: tuple[int, int]) -> None:
    """SIGTERM at any step takes the activation back before the agent ends, or completes what was proven."""
    kitchen.kill_at(f"{point}:SIGTERM", kitchen.operation(3, third))
    assert lying(kitchen) == ends
    heard = kitchen.heard()
    assert not heard or heard[-1] == str(ends[0]), "what the application was told last is what is active"
    assert kitchen.active() == ends


@pytest.mark.parametrize("point", ["replace:/current:before:2", "rename:.new-gone-3:after:1"])
def test_stopped_while_rolling_back_by_itself(kitchen: Kitchen, third: Built, point: str) -> None:
    """SIGTERM while a bad release is taken back does not keep it from being taken back."""
    kitchen.kill_at(f"{point}:SIGTERM", kitchen.operation(3, third, settings=kitchen.unwell))
    assert lying(kitchen) == OLD
    assert kitchen.heard()[-1] == "2"


def test_stopped_during_a_rollback(kitchen: Kitchen) -> None:
    """SIGTERM during a rollback leaves the release active that was so before, and both whole."""
    kitchen.kill_at("replace:/1.json:after:1:SIGTERM", {"op": "rollback", "number": 1})
    assert lying(kitchen) == OLD
    assert kitchen.heard()[-1] == "2"
    assert kitchen.active() == OLD


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_stopped_while_the_application_is_asked(
    kitchen: Kitchen, third: Built, tmp_path: Path, number: signal.Signals
) -> None:
    """A board that shuts down amid a probation has its old release again, is told so, and no hook runs on."""
    mark, pids = tmp_path / "asked", tmp_path / "pids"
    health = ("sh", "-c", f'test "$EDGEDEPLOY_RELEASE" = 2 || {{ echo $$ > "{pids}"; touch "{mark}"; sleep 60; }}')
    script = """root=${EDGEDEPLOY_CURRENT%/*}
        echo "$EDGEDEPLOY_RELEASE" >> "$root/told"
        sed -n 's/^SigIgn://p' /proc/$$/status > "$root/ignored"
    """
    settings = DeploySettings(reload=("sh", "-c", script), health=health, health_timeout_s=50)
    kitchen.board.write_job(kitchen.operation(3, third, settings=settings))
    with kitchen.board.start() as agent:
        deadline = time.monotonic() + 30
        while not mark.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        hook = psutil.Process(int(pids.read_text()))
        agent.send_signal(number)
        agent.send_signal(number)  # the impatient one too
        agent.communicate(timeout=30)
    assert agent.returncode == 128 + number
    assert lying(kitchen) == OLD
    assert kitchen.heard()[-1] == "2"
    assert not hook.is_running(), hook
    recovered = json.loads((kitchen.root / "releases" / "recovered.json").read_text())
    assert recovered["what"] == "the activation of release 3 was taken back"
    ignored = int((kitchen.root / "ignored").read_text(), 16)
    assert not ignored >> (signal.SIGTERM - 1) & 1, "an application that is started then can be stopped"


def test_stopped_where_the_journal_cannot_be_read(kitchen: Kitchen, third: Built) -> None:
    """An agent that is stopped and cannot set things right ends all the same, and says so to the next operation."""
    journal = kitchen.root / "releases" / "journal.json"
    spoil = (
        "sh",
        "-c",
        f'test "$EDGEDEPLOY_RELEASE" = 2 || {{ printf "{{" > "{journal}"; kill -TERM $PPID; sleep 60; }}',
    )
    kitchen.board.write_job(kitchen.operation(3, third, settings=DeploySettings(reload=spoil)))
    with kitchen.board.start() as agent:
        agent.communicate(timeout=30)
    assert agent.returncode == 143
    assert journal.read_text() == "{"
    error = kitchen.do({"op": "releases"})["error"]
    assert "journal.json is damaged" in error["message"]
