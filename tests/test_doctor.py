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
from tests.boards import samples
from tests.phones import a_phone
from tests.support.project import PLAN, write_project
from tools.adbd import SERIAL, Phone

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
    [({"root": "/proc/nowhere"}, "cannot write to"), ({"profile": "pi5"}, "")],
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


@pytest.mark.fault
def test_a_board_without_python_and_without_runners(tmp_path: Path) -> None:
    """Without a Python nothing is measured: both ways to mend that are told, and the space is looked at too."""
    found = looked(tmp_path, local(tmp_path, python="/no/python"))
    lack = found["here", "Python"]
    assert (lack.level, lack.detail) == (Level.FAULT, "no Python: `/no/python` is not there")
    assert lack.mend.startswith("run `edgedeploy provision`, install python3 on the board, or set `python =` in fleet")
    assert "or have a native runner measure: `edgedeploy runtimes add` with one that is built for x86_64" in lack.mend
    assert "benchmark_model for tflite files" in lack.mend
    assert found["here", "board"].level is found["here", "space"].level is Level.OK


def add_runner(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str = "benchmark_model") -> None:
    tool = folder / name
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{samples.text('x86-64', 'benchmark_model.txt')}\nEND\n")
    with monkeypatch.context() as patch:
        patch.setattr("edgedeploy.board.runners.elf_machine", lambda _: "x86_64")
        Project(folder).runners.add(tool)


@pytest.fixture
def phone_alone(phone: Phone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The fleet of a phone that has no Python, as phones have none."""
    monkeypatch.setenv("ADB_SERVER_SOCKET", phone.environment["ADB_SERVER_SOCKET"])
    write_project(tmp_path)
    return local(tmp_path, python="/no/python").replace('"here"', '"phone"').replace("local:", f"adb://{SERIAL}")


def test_native_runners_serve_a_phone_without_python(
    phone_alone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert looked(tmp_path, phone_alone)["phone", "Python"].level is Level.FAULT
    add_runner(tmp_path, monkeypatch)
    found = looked(tmp_path, phone_alone)
    assert [each for each in found.values() if each.where == "phone" and each.level is Level.FAULT] == []
    assert found["phone", "Python"] == Finding(
        "phone",
        "Python",
        Level.OK,
        "no Python: `/no/python` is not there: native runners measure in its place",
    )
    assert found["phone", "tflite files"].detail == "benchmark_model measures tflite files, on the CPU alone"
    assert found["phone", "onnx files"].level is Level.WARNING
    assert found["phone", "onnx files"].mend.startswith("`edgedeploy runtimes add` with one that is built for x86_64")
    add_runner(tmp_path, monkeypatch, "onnxruntime_perf_test")
    assert {each.level for where, each in looked(tmp_path, phone_alone).items() if where[0] == "phone"} == {Level.OK}


def test_native_runners_serve_another_board_but_for_deploying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_project(tmp_path)
    add_runner(tmp_path, monkeypatch)
    found = looked(tmp_path, local(tmp_path, python="/no/python"))
    assert (found["here", "Python"].level, found["here", "tflite files"].level) == (Level.WARNING, Level.OK)
    assert "nothing can be deployed" in found["here", "Python"].detail
    assert "edgedeploy provision" in found["here", "Python"].mend


@pytest.mark.fault
def test_a_phone_on_which_no_runner_could_run(
    phone_alone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell that lacks what starts a runner is told before a measurement fails for it."""
    add_runner(tmp_path, monkeypatch)
    monkeypatch.setattr(doctor, "NATIVE_TOOLS", ("sha256sum", "no-such-flock"))
    fault = looked(tmp_path, phone_alone)["phone", "shell"]
    assert (fault.level, fault.mend) == (Level.FAULT, "bring it a Python with `edgedeploy provision`")
    assert fault.detail == "its shell has no no-such-flock, without which no native runner runs there"


@pytest.mark.fault
def test_a_phone_whose_root_runs_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A root on a file system without execution, as /sdcard is, is told with a place to put it."""
    write_project(tmp_path)
    add_runner(tmp_path, monkeypatch)
    fleet = local(tmp_path, python="/no/python").replace("local:", f"adb://{SERIAL}")
    (tmp_path / "board").mkdir()
    with a_phone() as own:
        monkeypatch.setenv("ADB_SERVER_SOCKET", own.environment["ADB_SERVER_SOCKET"])
        own.mount("noexec", tmp_path / "board")
        fault = looked(tmp_path, fleet)["here", "root"]
    assert (fault.level, fault.detail) == (Level.FAULT, f"no program can be run below {tmp_path / 'board'}")
    assert fault.mend.startswith("set `root =` in fleet.toml to a folder in /")


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
        report["results"][1]["state"] |= state
        return report

    state: dict[str, Any] = {"throttled": 0x50005}

    monkeypatch.setattr(Board, "run_job", run_job)
    found = looked(tmp_path, local(tmp_path))
    assert found["here", "clock"].level is Level.FAULT
    assert "behind this machine's" in found["here", "clock"].detail
    assert found["here", "throttling"].detail == "at this moment: under-voltage, throttling"
    assert found["here", "throttling"].mend == "give it a better power supply"
    state = {"throttled": None, "cooling": {"cpufreq-cpu0": 2, "cpufreq-cpu4": 0}}
    found = looked(tmp_path, local(tmp_path))
    assert found["here", "throttling"].detail == "at this moment: cpufreq-cpu0"
    assert found["here", "throttling"].mend == "cool it"
    assert (found["here", "power sensor"].level, "root" in found["here", "power sensor"].detail) == (
        Level.WARNING,
        True,
    )
