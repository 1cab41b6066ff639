"""The doctor names what is missing, where, and how to mend it."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
import venv
from pathlib import Path
from typing import Any

import pytest

from edgedeploy import doctor
from edgedeploy.board import Board
from edgedeploy.doctor import Finding, Level, examine
from edgedeploy.errors import PlanError
from edgedeploy.project import Project
from tests.support.project import PLAN, write_project

LOCAL = '[[device]]\nname = "here"\nprofile = "x86-64"\naddress = "local:"\n'


def looked(folder: Path, fleet: str, **more: Any) -> dict[tuple[str, str], Finding]:
    (folder / "fleet.toml").write_text(fleet)
    return {(each.where, each.what): each for each in examine(Project(folder), **more)}


def local(folder: Path, **keys: str) -> str:
    fields = {"root": str(folder / "board"), "python": sys.executable, **keys}
    return LOCAL + "".join(f'{key} = "{value}"\n' for key, value in fields.items())


def test_a_board_that_is_well_has_no_fault(tmp_path: Path) -> None:
    found = looked(tmp_path, local(tmp_path))
    assert [each for each in found.values() if each.level is Level.FAULT] == []
    for what in ("board", "Python", "numpy", "space", "clock", "runtimes", "signatures", "power sensor", "throttling"):
        assert found["here", what].detail
    assert "onnxruntime" in found["here", "runtimes"].detail


def test_without_a_fleet_this_machine_alone_is_looked_at(tmp_path: Path) -> None:
    assert {each.where for each in examine(Project(tmp_path))} == {doctor.HOST}
    with pytest.raises(PlanError, match="not there"):
        examine(Project(tmp_path), ["pi4"])


def test_a_bare_python_lacks_numpy_and_runtimes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "bin" / "ssh-keygen"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'unknown option -- Y' >&2\nexit 1\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{old.parent}:{os.environ['PATH']}")
    venv.create(tmp_path / "bare", symlinks=True)
    found = looked(tmp_path, local(tmp_path, python=str(tmp_path / "bare" / "bin" / "python")))
    assert (found["here", "numpy"].level, found["here", "runtimes"].level) == (Level.WARNING, Level.FAULT)
    assert "install onnxruntime" in found["here", "runtimes"].mend
    assert found["here", "signatures"].level is Level.WARNING
    assert found["here", "signatures"].mend.startswith("run `edgedeploy provision`")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("keys", "says"),
    [({"python": "/no/python"}, "no Python"), ({"root": "/proc/nowhere"}, "cannot write to"), ({"profile": "pi5"}, "")],
)
def test_a_board_that_cannot_be_used_is_one_finding(tmp_path: Path, keys: dict[str, str], says: str) -> None:
    """What keeps the doctor from looking further is told with its mend, and the other boards are looked at."""
    fleet = local(tmp_path, **keys) if "profile" not in keys else local(tmp_path).replace("x86-64", "pi5")
    dead = '[[device]]\nname = "dead"\nprofile = "pi4"\naddress = "ssh://nobody@127.0.0.1:1"\n'
    found = looked(tmp_path, fleet + dead, jobs=1)
    assert found["here", "board"].level is found["dead", "board"].level is Level.FAULT
    assert says in found["here", "board"].detail
    assert found["here", "board"].mend
    assert "cannot connect" in found["dead", "board"].detail


def test_a_key_that_others_may_read(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("private")
    key.chmod(0o644)
    config = "Host b\n  HostName 127.0.0.1\n  Port 1\n  IdentityAgent none\n  IdentityFile "
    (tmp_path / "config").write_text(config + str(key))
    fleet = '[[device]]\nname = "b"\nprofile = "pi4"\naddress = "ssh://b"\nssh_config = "config"\n'
    found = looked(tmp_path, fleet)
    assert found[doctor.HOST, "SSH key"].mend == f"chmod 600 {key}"
    (tmp_path / "config").write_text(config + str(tmp_path / "absent"))
    found = looked(tmp_path, fleet)
    assert found["b", "SSH key"].level is Level.FAULT
    assert "ssh-keygen" in found["b", "SSH key"].mend


def test_programs_and_extras_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_project(
        tmp_path, fleet=local(tmp_path) + '[[device]]\nname = "b"\nprofile = "pi4"\naddress = "ssh://127.0.0.1:1"\n'
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    real = importlib.util.find_spec
    hidden = {"onnxslim", "litert_torch"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in hidden else real(name))
    found = {(each.where, each.what): each for each in examine(Project(tmp_path))}
    assert found[doctor.HOST, "ssh-keygen"].level is Level.FAULT
    assert found[doctor.HOST, "extra onnx"].level is Level.FAULT, "the plan wants ONNX files"
    assert found[doctor.HOST, "extra onnx"].mend == "pip install 'edgedeploy[onnx]'"
    assert found[doctor.HOST, "extra tflite"].level is Level.WARNING
    assert "onnx" in PLAN


def test_adb_of_the_android_sdk_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adb = tmp_path / "sdk" / "platform-tools" / "adb"
    adb.parent.mkdir(parents=True)
    adb.write_text("#!/bin/sh\nexit 1\n")
    adb.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ADB_SERVER_SOCKET", "tcp:elsewhere:5037")  # no server is there to be knocked at
    monkeypatch.delenv("ANDROID_SDK_ROOT", raising=False)
    fleet = '[[device]]\nname = "p"\nprofile = "pixel-8"\naddress = "adb://38DD"\n'
    for home, level in ((tmp_path / "sdk", Level.OK), (tmp_path, Level.FAULT)):
        monkeypatch.setenv("ANDROID_HOME", str(home))
        assert looked(tmp_path, fleet)[doctor.HOST, "adb"].level is level


def test_what_a_board_reports_of_itself_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Board.run_job

    def run_job(board: Board, operations: Any, **limits: Any) -> dict[str, Any]:
        report = real(board, operations, **limits)
        report["finished_unix_ns"] = int((time.time() - 86_400) * 1e9)
        report["results"][1] |= {
            "power": "",
            "no_power": "rapl: the energy counters are there and only root may read them",
        }
        report["results"][1]["state"]["throttled"] = 0x50005
        return report

    monkeypatch.setattr(Board, "run_job", run_job)
    found = looked(tmp_path, local(tmp_path))
    assert found["here", "clock"].level is Level.FAULT
    assert "behind this machine's" in found["here", "clock"].detail
    assert found["here", "throttling"].detail == "at this moment: under-voltage, throttling"
    assert found["here", "throttling"].mend == "give it a better power supply"
    assert (found["here", "power sensor"].level, "root" in found["here", "power sensor"].detail) == (
        Level.WARNING,
        True,
    )
