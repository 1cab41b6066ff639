"""Workers start with the Python that the bundle brings, through its loader, or with the board's own as it is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edgedeploy.on_device.children import command
from edgedeploy.on_device.interpreter import VARIABLE, environment, installed, interpreter


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A folder laid out as a bundle with its own Python is."""
    for name in ("bin/python3", "lib/ld-linux-aarch64.so.1", "bundle.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return str(tmp_path)


def test_without_a_bundle_nothing_changes() -> None:
    assert interpreter(None) == [sys.executable]
    assert environment(None) is None
    assert command("worker")[0] == sys.executable


def test_wheels_alone_keep_the_board_s_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/vendor")
    assert interpreter(str(tmp_path)) == [sys.executable]
    variables = environment(str(tmp_path))
    assert variables is not None
    assert variables["PYTHONPATH"] == f"{tmp_path}/site"
    assert variables["LD_LIBRARY_PATH"] == f"{tmp_path}/lib:/opt/vendor"
    assert os.environ["LD_LIBRARY_PATH"] == "/opt/vendor"


def test_a_python_of_its_own_is_started_by_its_loader(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    started = [f"{own}/lib/ld-linux-aarch64.so.1", "--library-path", f"{own}/lib", f"{own}/bin/python3"]
    assert interpreter(own) == started
    assert command("worker", own)[:4] == started
    variables = environment(own)
    assert variables is not None
    assert "LD_LIBRARY_PATH" not in variables


def test_an_agent_under_a_loader_starts_its_workers_so_too(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sys.executable` alone would ask for a loader that the board does not have."""
    monkeypatch.setattr(sys, "executable", f"{own}/bin/python3")
    assert interpreter(None)[0] == f"{own}/lib/ld-linux-aarch64.so.1"


def test_what_a_bundle_holds_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site" / "no_such_runtime").mkdir(parents=True)
    (tmp_path / "site" / "no_such_runtime" / "__init__.py").touch()
    assert not installed("no_such_runtime")
    assert installed("json")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert installed("no_such_runtime")
    assert not installed("another_one")
