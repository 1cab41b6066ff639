"""A board that is lied to, or runs out of something, ends in the old state or the new, never a third."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.deploy import SigningKey
from edgedeploy.records import DeploySettings
from tests.deploy.releasing import Built, Kitchen
from tests.on_device.virtual_board import sha256

FILLING = Path(__file__).with_name("filling.py")
OLD, NEW = (2, 1), (3, 2)
DEADLINE = pytest.mark.timeout(60)
SYSTEMCTL = "Job for app failed.\\nSee its status for details.\\n"
# An application that dies of the model after it was asked for its health.
ONCE = 'test ! -e "${EDGEDEPLOY_CURRENT%/*}/asked" && touch "${EDGEDEPLOY_CURRENT%/*}/asked"'


def truncated(content: bytes) -> bytes:
    return content[:-7]


def flipped(content: bytes) -> bytes:
    return content[:50] + bytes([content[50] ^ 1]) + content[51:]


def other(content: bytes) -> bytes:
    return b"x" * len(content)


@DEADLINE
@pytest.mark.fault
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("spoil", [truncated, flipped, other])
def test_an_object_that_changed_since_it_was_pushed(
    kitchen: Kitchen, third: Built, spoil: Callable[[bytes], bytes], packed: bool
) -> None:
    """Bytes are verified on the board right before activation, whatever was verified when they came."""
    operation = kitchen.operation(3, third, packed=packed)
    lying = third.variant.packed if packed else third.variant.artifact
    path = kitchen.root / "objects" / "sha256" / lying.sha256
    path.write_bytes(spoil(path.read_bytes()))
    error = kitchen.do(operation)["error"]
    assert error["kind"] == "refused"
    assert "model.onnx" in error["message"]
    assert kitchen.active() == OLD
    assert kitchen.heard() == []


def changed(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest.update(fields)


def path(text: str) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["files"][0].update(path=text)


@DEADLINE
@pytest.mark.fault
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (changed(expires_unix=1_000_000_000, issued_unix=900_000_000), "has expired at 2001-09-09 01:46 UTC"),
        (changed(number=2), "release 2 is not newer than 2, the highest that this board has seen"),
        (changed(number=1), "release 1 is not newer than 2"),
        (changed(profile="pi4"), "the release is for the profile 'pi4', and this board was enrolled as 'box'"),
        (changed(device="garage"), "the release is for the device 'garage', and this board was enrolled as 'kitchen'"),
        (changed(kind="rotation"), "must be 'release'"),
        (changed(extra=1), "unknown key 'extra'"),
        (path("../../current"), "must be a plain file name"),
        (path("model\n.onnx"), "must be a plain file name"),
        (path("mo'del.onnx"), "must be a plain file name"),
        (path("-rf"), "must be a plain file name"),
        (path("m" * 300), "must be a plain file name"),
        (path("manifest.json"), "must be a plain file name"),
        (path("contract.json"), "names a path twice"),
        (path(""), "must be a plain file name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_signed_manifest_that_no_board_may_act_on(
    kitchen: Kitchen, third: Built, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    """A good signature is not enough: stale, misdirected and dangerous manifests are refused."""
    error = kitchen.do(kitchen.operation(3, third, change=change))["error"]
    assert (error["kind"], says in error["message"]) == ("refused", True), error
    assert kitchen.active() == OLD
    assert kitchen.heard() == []


@DEADLINE
@pytest.mark.fault
@pytest.mark.parametrize("library", [False, True])
@pytest.mark.parametrize("how", ["changed", "another's", "of another purpose", "garbage", "empty"])
def test_a_signature_that_is_not_good(
    kitchen: Kitchen,
    third: Built,
    keys: dict[str, SigningKey],
    how: str,
    library: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only what the enrolled key signed as a release is taken, whichever tool checks it."""
    if library:
        monkeypatch.setenv("PATH", str(tmp_path))  # no ssh-keygen there
    operation = kitchen.operation(3, third, key=keys["theirs"] if how == "another's" else None)
    if how == "changed":
        operation["manifest"] = operation["manifest"].replace('"threads": 1', '"threads": 2')
    elif how == "of another purpose":
        operation["signature"] = kitchen.key.sign(operation["manifest"], "file")
    elif how in ("garbage", "empty"):
        operation["signature"] = "\x1b[2J" * 50 if how == "garbage" else ""
    error = kitchen.do(operation)["error"]
    assert error["kind"] == "refused"
    assert "sign" in error["message"]
    assert kitchen.active() == OLD


@DEADLINE
@pytest.mark.fault
def test_an_older_release_is_not_played_back(kitchen: Kitchen) -> None:
    """The very manifest and signature that were good once are refused later, even after a rollback."""
    old = kitchen.root / "releases" / "1"
    texts = {"manifest": (old / "manifest.json").read_text(), "signature": (old / "manifest.json.sig").read_text()}
    error = kitchen.do({"op": "deploy", **texts})["error"]
    assert "numbers only rise" in error["message"]
    assert kitchen.active() == OLD


@DEADLINE
@pytest.mark.fault
def test_a_board_that_does_not_know_the_time_takes_a_release_and_says_so(kitchen: Kitchen, third: Built) -> None:
    """Without a clock that runs on, expiry cannot be judged: a clock behind the time of signing is not believed."""
    now = int(time.time())
    operation = kitchen.operation(3, third, change=changed(issued_unix=now + 10_000, expires_unix=now + 20_000))
    done = kitchen.do(operation)
    assert done["outcome"] == "active"
    assert "expiry could not be checked" in done["notes"][0]
    assert kitchen.active() == NEW


@DEADLINE
@pytest.mark.fault
@pytest.mark.parametrize(
    ("settings", "more", "says"),
    [
        ({"health": ("false",)}, {}, "the application was not healthy within 0.5 s: `false` ended with exit code 1"),
        ({"health": ("sleep", "60")}, {}, "the application was not healthy within 0.5 s"),
        ({"reload": ("sh", "-c", "echo no such model >&2; exit 3")}, {}, "ended with exit code 3: no such model"),
        ({"reload": ("sh", "-c", f"printf '{SYSTEMCTL}' >&2; exit 1")}, {}, "exit code 1: Job for app failed (attempt"),
        ({"health": ("sh", "-c", ONCE)}, {}, "healthy at first, and no longer is: `sh` ended with exit code 1"),
        ({"reload": ("/no/such/program",)}, {}, "the reload command failed: `/no/such/program` cannot be run"),
        ({"reload": ("sleep", "60"), "reload_timeout_s": 0.3}, {}, "`sleep` did not end within 0.3 s"),
        ({}, {"p50_ms": 1e-9}, "a run takes"),
        ({}, {"max_ratio": 1e-9}, "times what it took with the release before in the same minute"),
    ],
)
def test_a_release_that_does_not_prove_itself(
    kitchen: Kitchen, third: Built, settings: dict[str, Any], more: dict[str, Any], says: str
) -> None:
    """The board itself takes back what the application refuses or what is too slow, after all its attempts."""
    reload = {"reload": kitchen.settings.reload} if "health" in settings else {}
    wanted = DeploySettings(**{**reload, **settings, "attempts": 2})
    done = kitchen.do(kitchen.operation(3, third, settings=wanted, **more))
    assert (done["outcome"], done["number"], done["before"]) == ("rolled_back", 3, 2)
    assert says in done["detail"]
    assert "(attempt 2 of 2)" in done["detail"]
    assert kitchen.active() == OLD
    assert kitchen.heard()[-1] == "2", "the application is told of the old release again"


@DEADLINE
@pytest.mark.fault
def test_a_model_that_computes_something_else(kitchen: Kitchen, tmp_path: Path) -> None:
    """Outputs that stray from the golden ones take a release back, after three attempts."""
    from tests.deploy.releasing import build

    wrong = build("wrong", tmp_path, wrong=True)
    done = kitchen.do(kitchen.operation(3, wrong, settings=DeploySettings(attempts=3)))
    assert done["outcome"] == "rolled_back"
    assert "mismatch: outputs stray from the host's" in done["detail"]
    assert "(attempt 3 of 3)" in done["detail"]
    assert kitchen.active() == OLD
    assert kitchen.heard() == ["3", "2"]


@DEADLINE
@pytest.mark.fault
def test_a_first_release_that_fails_leaves_none(empty: Kitchen, first: Built) -> None:
    """Without a release before, taking one back leaves none active, and its number stays used."""
    empty.enrol()
    done = empty.do(empty.operation(1, first, settings=DeploySettings(health=("false",))))
    assert (done["outcome"], done["before"]) == ("rolled_back", None)
    assert empty.active() == (None, None)
    assert empty.state()["highest"] == 1
    assert "is not newer than 1" in empty.do(empty.operation(1, first))["error"]["message"]


@DEADLINE
@pytest.mark.fault
def test_a_release_before_that_was_changed_is_not_gone_back_to(kitchen: Kitchen) -> None:
    """A rollback verifies bytes and signature first: what was good once may not be now."""
    model = kitchen.root / "releases" / "1" / "model.onnx"
    content = model.read_bytes()
    model.unlink()
    model.write_bytes(other(content))
    error = kitchen.do({"op": "rollback", "number": 1})["error"]
    assert "release 1 is not activated: model.onnx: its SHA-256 is" in error["message"]
    assert str((kitchen.root / "current").readlink()) == "releases/2"
    assert kitchen.heard() == []


@DEADLINE
@pytest.mark.fault
def test_two_deployers_at_once(kitchen: Kitchen, third: Built, first: Built, tmp_path: Path) -> None:
    """One at a time changes a board; who comes second is told so, or refused for a number that is used."""
    mark, go = tmp_path / "reloading", tmp_path / "go"
    wait = f'touch "{mark}"; while ! test -e "{go}"; do sleep 0.02; done'
    kitchen.board.write_job(kitchen.operation(3, third, settings=DeploySettings(reload=("sh", "-c", wait))))
    with kitchen.board.start() as agent:
        while not mark.exists():
            time.sleep(0.02)
        report = kitchen.board.report_path
        kitchen.board.report_path = tmp_path / "other.json"
        assert kitchen.do(kitchen.operation(3, first))["error"]["kind"] == "locked"
        assert kitchen.state()["busy"] is True
        kitchen.board.report_path = report
        go.touch()
        agent.communicate(timeout=60)
    assert "not newer than 3" in kitchen.do(kitchen.operation(3, first))["error"]["message"]
    assert kitchen.active() == NEW


@DEADLINE
@pytest.mark.fault
def test_a_lock_whose_owner_died_holds_nobody_up(kitchen: Kitchen, third: Built) -> None:
    """The kernel frees the lock of a dead process: what it wrote into the file does not count."""
    (kitchen.root / "lock").write_text(json.dumps({"pid": 1, "started_unix_ns": time.time_ns()}))
    assert kitchen.do(kitchen.operation(3, third))["outcome"] == "active"
    assert kitchen.active() == NEW


@DEADLINE
@pytest.mark.fault
@pytest.mark.parametrize("place", ["the manifest", "the journal", "the probation"])
def test_no_more_room(kitchen: Kitchen, third: Built, place: str) -> None:
    """A disk that is full at the manifest, at the journal or on probation costs the new release, never the old one."""
    kitchen.board.write_job(kitchen.operation(3, third))
    argv = [sys.executable, str(FILLING), place, *arguments(kitchen)]
    full = subprocess.run(argv, capture_output=True, timeout=60)
    assert full.returncode == 0, full.stderr.decode()
    (result,) = kitchen.board.results()
    told = result["error"]["message"] if "error" in result else result["detail"]
    assert os.strerror(errno.EFBIG) in told
    assert kitchen.active() == OLD


def arguments(kitchen: Kitchen) -> list[str]:
    return [str(kitchen.board.agent), str(kitchen.board.job_path), str(kitchen.board.report_path)]


def need_namespaces() -> None:
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0:
        pytest.skip("this account may not make mount namespaces")


def in_a_namespace(mounts: str, kitchen: Kitchen) -> subprocess.CompletedProcess[bytes]:
    """Run the agent where the board's root is mounted otherwise; whoever may not make namespaces skips the test."""
    need_namespaces()
    script = f'set -e; {mounts}; exec "$@"'
    argv = ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, *arguments(kitchen)]
    return subprocess.run(argv, capture_output=True, timeout=60)


@DEADLINE
@pytest.mark.fault
def test_a_read_only_disk(kitchen: Kitchen, third: Built, tmp_path: Path) -> None:
    """A file system that went read-only is an error of the board, and nothing is tried on it."""
    kitchen.board.write_job(kitchen.operation(3, third))
    kitchen.board.report_path = tmp_path / "report.json"
    root = kitchen.root
    done = in_a_namespace(f'mount --bind "{root}" "{root}"; mount -o remount,bind,ro "{root}"', kitchen)
    assert done.returncode == 0, done.stderr.decode()
    (result,) = kitchen.board.results()
    assert (result["error"]["kind"], "Read-only file system" in result["error"]["message"]) == ("io", True)
    assert kitchen.active() == OLD


@DEADLINE
@pytest.mark.fault
def test_a_small_disk_that_is_really_full(kitchen: Kitchen, third: Built, tmp_path: Path) -> None:
    """On a real file system without a free block the old release stays, and its links are untouched."""
    kitchen.board.write_job(kitchen.operation(3, third))
    job, report = kitchen.board.job_path, tmp_path / "report.json"
    kitchen.board.report_path = report
    root, copy = kitchen.root, tmp_path / "copy"
    shutil.copytree(root, copy, symlinks=True)
    after = tmp_path / "after"
    fill = f'mount -t tmpfs -o size=1m tmpfs "{root}"; cp -a "{copy}/." "{root}"; '
    fill += f'dd if=/dev/zero of="{root}/filler" bs=4k 2>/dev/null || true'
    script = f'"$@"; code=$?; rm "{root}/filler"; cp -a "{root}" "{after}"; exit $code'
    argv = [*arguments(kitchen)]
    need_namespaces()
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"set -e; {fill}; set +e; {script}", "sh", sys.executable, *argv],
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert job.exists()
    (result,) = kitchen.board.results()
    assert "No space left on device" in result["error"]["message"]
    kitchen.board.report_path = job.with_name("report.json")
    shutil.rmtree(root)
    shutil.copytree(after, root, symlinks=True)
    assert kitchen.active() == OLD


@DEADLINE
@pytest.mark.fault
def test_a_damaged_journal_stops_everything(kitchen: Kitchen, third: Built) -> None:
    """What is written in a journal that cannot be read is not guessed: nothing is done until a person looked."""
    (kitchen.root / "releases" / "journal.json").write_text('{"state": "acti')
    error = kitchen.do(kitchen.operation(3, third))["error"]
    assert (error["kind"], "journal.json is damaged" in error["message"]) == ("refused", True)
    assert str((kitchen.root / "current").readlink()) == "releases/2"
    (kitchen.root / "releases" / "journal.json").unlink()
    assert kitchen.active() == OLD


@DEADLINE
@pytest.mark.fault
def test_collecting_garbage_spares_what_a_push_asked_for(kitchen: Kitchen, third: Built) -> None:
    """Between a push and its deploy, a collection leaves alone what the push found or sent, however old it is."""
    operation = kitchen.operation(3, third)
    objects = kitchen.root / "objects" / "sha256"
    ours = {artifact.sha256 for artifact in (third.variant.artifact, third.variant.contract, third.variant.probe)}
    stray = sha256(b"stray")
    (objects / stray).write_bytes(b"stray")
    for file in objects.iterdir():
        os.utime(file, (0, 0))
    sizes = {name: (objects / name).stat().st_size for name in ours}
    assert set(kitchen.do({"op": "inventory", "objects": sizes})["present"]) == ours
    plan = {"op": "collect", "dry_run": True, "grace_s": 3600}
    planned = kitchen.do(plan)
    assert f"object {stray}" in planned["removed"]
    assert (objects / stray).exists()
    assert kitchen.do({**plan, "dry_run": False}) == planned
    assert not (objects / stray).exists()
    assert kitchen.do(operation)["outcome"] == "active"
    assert kitchen.active() == NEW


@DEADLINE
@pytest.mark.fault
def test_objects_that_were_collected_too_early_are_asked_for_again(kitchen: Kitchen, third: Built) -> None:
    """A collection that was told to spare nothing takes no release with it, and a deploy says what is missing."""
    operation = kitchen.operation(3, third)
    done = kitchen.do({"op": "collect", "dry_run": False, "grace_s": 0})
    assert done["freed_bytes"] > 0
    missing = kitchen.do(operation)
    assert (missing["outcome"], third.variant.artifact.sha256 in missing["missing"]) == ("missing", True)
    assert kitchen.active() == OLD
