"""A phone without Python is measured by native runners where the project has some; the runner here is a stand-in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.cli import main
from edgedeploy.cli.output import pushed
from edgedeploy.errors import BoardError, NoPython
from edgedeploy.lab import Visited
from edgedeploy.lab.visit import Measurement, visit
from edgedeploy.profiling import MODES, Mode
from edgedeploy.progress import SILENT
from edgedeploy.project import Project
from edgedeploy.records import CPU, Format, Outcome, Precision, Target, Variant
from edgedeploy.transport import Completed
from edgedeploy.transport.adb import AdbTransport
from tests.boards import samples
from tests.support.project import write_project
from tests.support.records import make_variant
from tools.adbd import SERIAL, Phone

FLEET = """
[[device]]
name = "phone"
profile = "x86-64"
address = "adb://{serial}"
root = "{root}"
python = "/none/python3"
"""
QUICK = Measurement(Mode("quick", 64, 0.2, 2), threads=1)


@pytest.fixture
def project(phone: Phone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("ADB_SERVER_SOCKET", phone.environment["ADB_SERVER_SOCKET"])
    fleet = FLEET.format(serial=SERIAL, root=tmp_path / "board")
    return Project(write_project(tmp_path / "project", fleet=fleet))


@pytest.fixture
def variants(project: Project, tmp_path: Path) -> list[Variant]:
    """One of each format, with files in the store."""
    found = []
    for file_format in (Format.TFLITE, Format.ONNX):
        variant = make_variant(f"small-{file_format}-fp32", target=Target(file_format, Precision.FP32))
        source = tmp_path / f"model.{file_format}"
        source.write_text(f"a model in {file_format}")
        found.append(replace(variant, artifact=project.store.put(source, file_format.value)))
    return found


def add_runner(
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str = "benchmark_model",
    says: str = "benchmark_model.txt",
    code: int = 0,
) -> None:
    tool = tmp_path / name
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{samples.text('x86-64', says)}\nEND\nexit {code}\n")
    with monkeypatch.context() as patch:
        patch.setattr("edgedeploy.board.runners.elf_machine", lambda _: "x86_64")
        project.runners.add(tool)


def test_without_a_runner_a_phone_without_python_is_an_error(project: Project, variants: list[Variant]) -> None:
    (device,) = project.devices()
    with pytest.raises(NoPython, match=r"^phone: no Python"):
        visit(project, device, variants, SILENT, measure=QUICK)


def test_runner_measures_what_it_takes_and_only_once(
    project: Project, variants: list[Variant], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_runner(project, tmp_path, monkeypatch)
    (device,) = project.devices()
    first = visit(project, device, variants, SILENT, measure=QUICK)
    assert (first.variants, first.measured) == (("small-tflite-fp32",), ("small-tflite-fp32",))
    assert [(report.outcome, report.runtime) for report in first.reports] == [(Outcome.OK, "benchmark_model")]
    ((name, why),) = first.left_out
    assert (name, "no native runner for onnx files on x86_64" in why) == ("small-onnx-fp32", True)
    again = visit(project, device, variants, SILENT, measure=QUICK)
    assert (again.measured, again.push.sent) == ((), ())
    assert [report.id for report in again.reports] == [report.id for report in first.reports]
    afresh = visit(project, device, variants, SILENT, measure=replace(QUICK, afresh=True))
    assert afresh.reports[0].id != first.reports[0].id


@pytest.mark.fault
def test_what_one_runner_measured_is_kept_where_the_other_is_to_blame(
    project: Project, variants: list[Variant], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runner that does not know its options is told as an error, and costs no report of the other runner."""
    add_runner(project, tmp_path, monkeypatch)
    usage = "onnxruntime_perf_test_usage.txt"
    add_runner(project, tmp_path, monkeypatch, "onnxruntime_perf_test", usage, 255)
    (device,) = project.devices()
    with pytest.raises(BoardError, match=r"^phone: the native runner onnxruntime_perf_test does not take the options"):
        visit(project, device, variants, SILENT, measure=QUICK)
    (kept,) = project.latest_reports(device, CPU).values()
    assert (kept.runtime, kept.outcome) == ("benchmark_model", Outcome.OK)


def test_a_phone_without_python_is_connected_to_and_probed_once(
    project: Project, variants: list[Variant], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_runner(project, tmp_path, monkeypatch)
    opened, names = [], []
    enter, run = AdbTransport.__enter__, AdbTransport.run

    def entering(transport: AdbTransport) -> AdbTransport:
        opened.append(transport)
        return enter(transport)

    def running(transport: AdbTransport, argv: Sequence[str], **options: Any) -> Completed:
        names.append(argv[3] if len(argv) > 3 else argv[0])
        return run(transport, argv, **options)

    monkeypatch.setattr(AdbTransport, "__enter__", entering)
    monkeypatch.setattr(AdbTransport, "run", running)
    (device,) = project.devices()
    visit(project, device, variants, SILENT)
    assert (len(opened), names.count("probe")) == (1, 1)


def test_a_phone_without_python_says_what_it_is(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "probe", "--project", str(project.folder)]) == 0
    assert "x86_64, no Python, Linux " in capsys.readouterr().out


def test_push_to_a_phone_without_python_is_told(
    project: Project,
    variants: list[Variant],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add_runner(project, tmp_path, monkeypatch)
    (device,) = project.devices()
    done = visit(project, device, variants, SILENT)
    assert pushed([Visited("phone", done, None)], dry_run=False, as_json=False) == 0
    assert "phone: 1 variant; sent 2 objects" in capsys.readouterr().out


def test_accelerators_are_not_for_native_runners(
    project: Project, variants: list[Variant], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_runner(project, tmp_path, monkeypatch)
    (device,) = project.devices()
    done = visit(project, device, variants, SILENT, measure=Measurement(MODES["smoke"], 1, "xnnpack"))
    assert done.variants == ()
    assert {why for _, why in done.left_out} == {"native runners measure on the CPU alone, not on xnnpack"}
