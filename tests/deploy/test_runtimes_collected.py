"""Runtimes that nothing uses any more are collected with the rest, and no other."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.releasing import Kitchen
from tests.runtime_bundles import RUNTIME, archive, operation

# Of this process alone: what other tests run at the same time is not to be taken for a user of these.
GONE, KEPT = secrets.token_hex(32), secrets.token_hex(32)
GOOD = archive()
CURRENT = operation(GOOD)["sha256"]
COLLECT = {"op": "collect", "dry_run": False, "grace_s": 0}


def laid(kitchen: Kitchen, digest: str, files: dict[str, bytes] = RUNTIME) -> Path:
    """An old runtime, as one lies there whose removal was cut off when another took its place."""
    folder = kitchen.root / "runtimes" / digest
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    os.utime(folder, (0, 0))
    return folder


@pytest.fixture
def provisioned(kitchen: Kitchen) -> Kitchen:
    """A board with a runtime in use, however long it has been there."""
    kitchen.board.put(GOOD)
    assert kitchen.do(operation(GOOD))["runtimes"] == {"onnxruntime": "99.1"}
    os.utime(kitchen.root / "runtimes" / CURRENT, (0, 0))
    return kitchen


def there(kitchen: Kitchen) -> set[str]:
    return {path.name for path in (kitchen.root / "runtimes").iterdir()} - {"current"}


def collected(kitchen: Kitchen, **changes: Any) -> dict[str, Any]:
    """What a collection says, by an agent whose report lies elsewhere than that of the one that may run."""
    report = kitchen.board.report_path
    kitchen.board.report_path = report.with_name("collected.json")
    try:
        return kitchen.do({**COLLECT, **changes})
    finally:
        kitchen.board.report_path = report


def test_old_runtimes_go_and_the_current_one_stays(provisioned: Kitchen) -> None:
    laid(provisioned, GONE)
    half = laid(provisioned, KEPT)
    (half / "bundle.json").unlink()
    os.utime(half, (0, 0))
    planned = collected(provisioned, dry_run=True)
    assert {f"runtime {GONE}", f"runtime {KEPT}"} <= set(planned["removed"])
    assert f"runtime {CURRENT}" not in planned["removed"]
    assert there(provisioned) == {GONE, KEPT, CURRENT}
    done = collected(provisioned)
    assert done == planned
    assert done["freed_bytes"] >= sum(map(len, RUNTIME.values()))
    assert there(provisioned) == {CURRENT}
    assert provisioned.active() == (2, 1)


def test_what_came_lately_or_is_no_runtime_stays(provisioned: Kitchen) -> None:
    os.utime(laid(provisioned, GONE))
    laid(provisioned, "notes")
    collected(provisioned)
    assert there(provisioned) == {GONE, "notes", CURRENT}


@contextmanager
def a_job_with(kitchen: Kitchen, digest: str, mark: Path) -> Iterator[None]:
    """An agent at work with a runtime, which holds no lock."""
    module = f"open({str(mark)!r}, 'w').close()\nimport time\ntime.sleep(60)\n"
    laid(kitchen, digest, RUNTIME | {"site/onnxruntime/__init__.py": module.encode()})
    kitchen.board.write_job({"op": "facts"})
    with kitchen.board.start("--bundle", digest) as agent:
        yield
        agent.terminate()
        agent.communicate(timeout=60)


@contextmanager
def a_program_with(kitchen: Kitchen, digest: str, mark: Path) -> Iterator[None]:
    """A program of the user's that has loaded a file of a runtime."""
    file = laid(kitchen, digest) / "bundle.json"
    code = (
        "import mmap, sys, time; file = open(sys.argv[1], 'rb'); "
        "held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ); open(sys.argv[2], 'w').close(); time.sleep(60)"
    )
    link = kitchen.root / "link"
    link.symlink_to(file)
    with subprocess.Popen([sys.executable, "-c", code, str(link), str(mark)]) as program:
        yield
        program.kill()


@pytest.mark.fault
@pytest.mark.timeout(60)
@pytest.mark.parametrize("user", [a_job_with, a_program_with])
def test_a_runtime_that_a_process_uses_stays(provisioned: Kitchen, user: Any, tmp_path: Path) -> None:
    """A collection takes no runtime from a job that runs, nor from a program that has loaded a file of it."""
    mark = tmp_path / "begun"
    laid(provisioned, GONE)
    with user(provisioned, KEPT, mark):
        deadline = time.monotonic() + 30
        while not mark.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert f"runtime {GONE}" in collected(provisioned)["removed"]
        assert there(provisioned) == {KEPT, CURRENT}
    assert f"runtime {KEPT}" in collected(provisioned)["removed"]
    assert there(provisioned) == {CURRENT}


@pytest.mark.fault
def test_no_runtime_goes_where_it_is_not_known_which_is_in_use(provisioned: Kitchen) -> None:
    """A damaged pointer says nothing, so that a collection leaves every runtime where it is."""
    laid(provisioned, GONE)
    (provisioned.root / "runtimes" / "current").write_text("nonsense")
    assert not [name for name in collected(provisioned)["removed"] if name.startswith("runtime")]
    assert there(provisioned) == {GONE, CURRENT}


@pytest.mark.fault
@pytest.mark.timeout(60)
def test_power_lost_while_a_runtime_is_removed(provisioned: Kitchen) -> None:
    """A collection that dies leaves no half of a runtime under its name, and the next operation clears up after it."""
    laid(provisioned, GONE)
    provisioned.kill_at(f"rename:{GONE[-16:]}:after:1", COLLECT)
    assert there(provisioned) == {CURRENT}
    assert provisioned.active() == (2, 1), "which sees to it that nothing is left in tmp"
