"""Holds the shipped device profiles to naming their sources and to what the code knows how to use."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path

import pytest

from edgedeploy.on_device.facts import parse_isa
from edgedeploy.plan import load_profiles
from edgedeploy.records import Format, Int8Form, Precision, Target

FOLDER = Path(__file__).parents[1] / "device_profiles"
FILES = sorted(FOLDER.glob("*.toml"))

EXPECTED = {
    "android-arm64",
    "jetson-nano",
    "jetson-orin-nano",
    "jetson-xavier-nx",
    "pi-zero-2w",
    "pi3",
    "pi4",
    "pi5",
    "pixel-8",
    "x86-64",
}


def test_the_promised_kinds_of_board_are_shipped() -> None:
    assert set(load_profiles()) == EXPECTED


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_profile_runs_both_formats_in_the_common_precisions(path: Path) -> None:
    profile = load_profiles()[path.stem]
    common = (Precision.FP32, Precision.FP16, Precision.W8, Precision.INT8)
    assert all(profile.can_run(Target(f, p)) for f in Format for p in common)


def test_the_old_tflite_runtime_gets_no_file_that_it_answers_wrongly() -> None:
    # Version 2.14 takes the first of a tensor's scales for all channels of a dynamic int8 product.
    old = [r for profile in load_profiles().values() for r in profile.runtimes if r.name == "tflite-runtime"]
    wrong = {Precision.W4, Precision.INT8_DYNAMIC, Precision.INT16X8}
    assert old
    assert all(not wrong.intersection(runtime.precisions) for runtime in old)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_profile_knows_which_form_of_int8_suits_its_cores(path: Path) -> None:
    profile = load_profiles()[path.stem]
    forms = {Int8Form.U8S8, Int8Form.U8S7} if profile.arch == "x86_64" else {Int8Form.S8S8}
    forms |= {form for accelerator in profile.accelerators for form in accelerator.int8}
    assert set(profile.int8_forms(Format.ONNX)) == forms
    assert profile.int8_forms(Format.TFLITE) == ()
    wanted = [f for f in Int8Form if profile.can_run(Target(Format.ONNX, Precision.INT8, f))]
    assert set(wanted) == forms


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_agent_knows_the_features_that_a_profile_names(path: Path) -> None:
    """Else every measurement on such a board would be suspect for want of them."""
    isa = load_profiles()[path.stem].isa
    assert parse_isa(f"Features\t: fp {' '.join(isa)} cpuid") == sorted(isa)


def test_only_what_was_seen_to_run_is_called_tried() -> None:
    tried = {(kind.name, a.name) for kind in load_profiles().values() for a in kind.accelerators if a.tried}
    assert tried == {("x86-64", "xnnpack"), ("x86-64", "openvino")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_accelerator_has_its_source_above_it(path: Path) -> None:
    kind = load_profiles()[path.stem]
    assert kind.accelerators
    for part in path.read_text("utf-8").split("\n\n"):
        if "[[accelerator]]" in part:
            told = "\n".join(line for line in part.splitlines() if line.startswith("#"))
            assert told or 'name = "tensorrt"' in part, f"{path.name}: {part}: no source"
    untried = {a.name for a in kind.accelerators if not a.tried and a.name != "xnnpack"}
    assert path.read_text("utf-8").count("Never run by this project") >= len(untried)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_engine_is_kept_on_the_board(path: Path) -> None:
    for accelerator in load_profiles()[path.stem].accelerators:
        if accelerator.name == "tensorrt":
            assert accelerator.caches
            assert accelerator.then == ("CUDAExecutionProvider",)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_profile_tells_what_its_power_source_sees_or_why_there_is_none(path: Path) -> None:
    assert load_profiles()[path.stem].power_note


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_fact_has_its_source_beside_it(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    facts = ("memory_bytes", "isa", "power_note", "max_temperature_c", "max_peak_rss_bytes")
    for above, line in itertools.pairwise(lines):
        if line.startswith(tuple(f"{fact} = " for fact in facts)) and "has no power sensor" not in line:
            assert "  # " in line or above.startswith("#"), f"{path.name}: {line}: no source"
    clusters = "\n".join(lines).partition("[[cpu]]")
    last_before = clusters[0].rstrip().rpartition("\n")[2]
    assert last_before.startswith("#") or "#" in clusters[2].partition("[[runtime]]")[0], f"{path.name}: cpu: no source"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_sources_are_titles_not_addresses(path: Path) -> None:
    assert not re.search(r"https?://|www\.", path.read_text("utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_profile_fits_into_its_board(path: Path) -> None:
    table = tomllib.loads(path.read_text("utf-8"))
    limit = table.get("limits", {}).get("max_peak_rss_bytes", 1)
    assert 0 < limit < table["memory_bytes"]
    assert table["arch"] in {"aarch64", "x86_64"}
    assert all(runtime["name"] in {"onnxruntime", "ai-edge-litert", "tflite-runtime"} for runtime in table["runtime"])


def test_halves_are_storage_alone_where_cores_or_runtimes_cannot_compute_them() -> None:
    profiles = load_profiles()
    onnx, tflite = (Target(file_format, Precision.FP16) for file_format in Format)
    assert "no fphp, asimdhp" in profiles["pi4"].storage_only(onnx)
    assert profiles["pi5"].storage_only(onnx) == ""
    assert "onnxruntime makes floats of halves" in profiles["x86-64"].storage_only(onnx)
    assert "ai-edge-litert makes floats of halves" in profiles["pi5"].storage_only(tflite)
    assert profiles["pi4"].storage_only(Target(Format.ONNX, Precision.FP32)) == ""
