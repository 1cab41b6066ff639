"""The agent's file is the same wherever it is packed, and is whole."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import edgedeploy
from edgedeploy.board.bundle import agent_bundle

PACK = "import runpy; print(runpy.run_path('edgedeploy/board/bundle.py')['agent_bundle']()[1])"


def packed_by(python: str, source: Path) -> str:
    done = subprocess.run(
        [python, "-c", PACK],
        env={"PYTHONPATH": str(source), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=source,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def other_pythons() -> list[str]:
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    minors = [minor for minor in (11, 12, 13) if minor != sys.version_info.minor]
    return [str(path) for minor in minors for path in sorted(versions.glob(f"3.{minor}.*/bin/python"))[:1]]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The package elsewhere, with other times and permissions and with bytecode lying about."""
    folder = Path(edgedeploy.__file__).parent
    target = tmp_path / "edgedeploy"
    for part in ("__init__.py", "board/bundle.py"):
        (target / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / part, target / part)
    (target / "on_device").mkdir()
    for path in sorted((folder / "on_device").glob("*.py"), reverse=True):
        copy = target / "on_device" / path.name
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o600)
        os.utime(copy, (1_000_000_000, 1_000_000_000))
    (target / "on_device" / "__pycache__").mkdir()
    (target / "on_device" / "__pycache__" / "stale.pyc").write_bytes(b"stale")
    return tmp_path


def test_the_name_is_the_hash_of_the_content() -> None:
    content, digest = agent_bundle()
    assert hashlib.sha256(content).hexdigest() == digest


def test_all_modules_and_nothing_else_are_inside() -> None:
    folder = Path(edgedeploy.__file__).parent / "on_device"
    with zipfile.ZipFile(io.BytesIO(agent_bundle()[0])) as archive:
        assert archive.testzip() is None
        assert set(archive.namelist()) == {"__main__.py", *(f"on_device/{path.name}" for path in folder.glob("*.py"))}
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_times_permissions_and_places_do_not_show(copied: Path) -> None:
    assert packed_by(sys.executable, copied) == agent_bundle()[1]


def test_another_python_packs_the_same_bytes(copied: Path) -> None:
    """Runs with as many other Pythons as this machine has; the one before holds on any machine."""
    for python in other_pythons():
        assert packed_by(python, copied) == agent_bundle()[1]


def test_a_changed_source_has_another_name(copied: Path) -> None:
    with (copied / "edgedeploy" / "on_device" / "steady.py").open("a") as file:
        file.write("# changed\n")
    assert packed_by(sys.executable, copied) != agent_bundle()[1]
