from __future__ import annotations

import json
import platform
import struct
import sys
from pathlib import Path

import pytest

from edgedeploy.board.runners import Runners, elf_machine
from edgedeploy.errors import PlanError, StoreError
from edgedeploy.records import Format


def elf(path: Path, machine: int = 183, *, bits: int = 2, extra: bytes = b"") -> Path:
    """A file that begins as a program for a machine does."""
    path.write_bytes(b"\x7fELF" + bytes([bits, 1, 1]) + bytes(9) + struct.pack("<HH", 2, machine) + extra)
    return path


def test_machine_of_a_real_program() -> None:
    assert elf_machine(Path(sys.executable).resolve()) == platform.machine()


def test_runner_is_kept_by_content(tmp_path: Path) -> None:
    runners = Runners(tmp_path / "store")
    tool, library = elf(tmp_path / "onnxruntime_perf_test"), elf(tmp_path / "libonnxruntime.so", extra=b"x")
    first = runners.add(tool, "aarch64", [library])
    assert (first.kind, first.arch, first.format, first.binary) == (
        *("onnxruntime_perf_test", "aarch64", Format.ONNX, "onnxruntime_perf_test"),
    )
    assert runners.path(first, "libonnxruntime.so").read_bytes() == library.read_bytes()
    assert runners.add(tool, None, [library]) == first
    elf(tool, extra=b"newer")
    second = runners.add(tool, None, [library])
    assert second.id != first.id
    assert {runner.id for runner in runners.list()} == {first.id, second.id}
    assert runners.fitting("aarch64") == {Format.ONNX: second}
    assert runners.fitting("x86_64") == {}
    assert runners.remove(first.id[:8]) == first
    assert runners.list() == [second]


def test_formats_have_runners_of_their_own(tmp_path: Path) -> None:
    runners = Runners(tmp_path / "store")
    onnx = runners.add(elf(tmp_path / "onnxruntime_perf_test"))
    tflite = runners.add(elf(tmp_path / "android_aarch64_benchmark_model_plus_flex"))
    assert runners.fitting("aarch64") == {Format.ONNX: onnx, Format.TFLITE: tflite}


@pytest.mark.parametrize(
    ("name", "machine", "arch", "complaint"),
    [
        ("perf", 183, None, "not a runner that edgedeploy knows by its name; known are benchmark_model"),
        ("benchmark_model", 62, "aarch64", "built for x86_64, not for aarch64"),
        ("benchmark_model", 8, None, r"built for a machine \(ELF 8\) that no device profile is for"),
        ("benchmark_model", None, None, r"not a program for Linux or Android \(no ELF file\)"),
        ("absent/benchmark_model", -1, None, "cannot be read: No such file"),
    ],
)
def test_what_is_no_runner(tmp_path: Path, name: str, machine: int | None, arch: str | None, complaint: str) -> None:
    path = tmp_path / name
    if machine is None:
        path.write_text("#!/bin/sh\n")
    elif machine >= 0:
        elf(path, machine)
    with pytest.raises(PlanError, match=f"^{path}: {complaint}"):
        Runners(tmp_path / "store").add(path, arch)
    assert Runners(tmp_path / "store").list() == []


def test_library_for_another_machine(tmp_path: Path) -> None:
    tool, library = elf(tmp_path / "benchmark_model"), elf(tmp_path / "libc++_shared.so", 62)
    with pytest.raises(PlanError, match=r"libc\+\+_shared.so: built for x86_64, but benchmark_model is for aarch64"):
        Runners(tmp_path / "store").add(tool, None, [library])


@pytest.mark.parametrize("name", ["", "abc", "ffffffffff", "zzzzzz"])
def test_removing_what_is_not_there_lists_what_is(tmp_path: Path, name: str) -> None:
    runners = Runners(tmp_path / "store")
    there = runners.add(elf(tmp_path / "benchmark_model"))
    with pytest.raises(PlanError, match=rf"starts with `{name}`.*there: {there.id[:12]} \(benchmark_model, aarch64\)"):
        runners.remove(name)


@pytest.mark.fault
@pytest.mark.parametrize("damage", ["no record", "half a record", "another id", "no file"])
def test_damaged_store_of_runners_says_what_to_do(tmp_path: Path, damage: str) -> None:
    """A runner whose folder is damaged is never used: the error names the folder and the mend."""
    runners = Runners(tmp_path / "store")
    there = runners.add(elf(tmp_path / "benchmark_model"))
    record = runners.path(there, "runner.json")
    if damage == "no record":
        record.unlink()
    elif damage == "half a record":
        record.write_text(record.read_text()[:30])
    elif damage == "another id":
        record.write_text(json.dumps({**json.loads(record.read_text()), "id": "0" * 64}))
    else:
        runners.path(there, "benchmark_model").unlink()
    with pytest.raises(StoreError, match=rf"{there.id}: .*remove that folder and add"):
        runners.list()
