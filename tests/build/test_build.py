from __future__ import annotations

import fcntl
import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgedeploy import export, pipeline
from edgedeploy.build import Built, identity
from edgedeploy.compress import FineTune, Soup
from edgedeploy.errors import ExportError, PlanError, StoreError
from edgedeploy.project import Project
from edgedeploy.records import Format, Precision, Recipe, Target
from tests.build import coarse
from tests.support.project import PLAN, TASK, write_project

pytestmark = pytest.mark.builds

TUNED = f"""{PLAN}
[[recipe]]
name = "tuned"
passes = [{{ kind = "fine-tune", epochs = 1 }}]
formats = ["onnx"]
precisions = ["fp32"]
"""


SMALLEST = PLAN.replace('"fp32", "int8"', '"fp32"')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_project(tmp_path / "project", plan=TUNED)


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Built]:
    folder = write_project(tmp_path_factory.mktemp("build") / "project", plan=TUNED)
    return folder, build(folder)


@pytest.fixture
def first(built_once: tuple[Path, Built]) -> Built:
    """What the first build of `again` made."""
    return built_once[1]


@pytest.fixture
def again(built_once: tuple[Path, Built], tmp_path: Path) -> Path:
    """A project of which everything is built, moved to another place since."""
    return Path(shutil.copytree(built_once[0], tmp_path / "again"))


def build(folder: Path) -> Built:
    """In this process, where tests can reach in."""
    return pipeline.build(Project(folder), jobs=1)


def test_a_variant_is_built_once_and_found_again(again: Path, first: Built) -> None:
    assert [variant.name for variant in first.variants] == [
        "dense-onnx-fp32",
        "dense-onnx-int8-u8s8",
        "tuned-onnx-fp32",
    ]
    assert first.made == tuple(variant.name for variant in first.variants)
    assert first.failures == ()
    second = build(again)
    assert (second.variants, second.made) == (first.variants, ())
    fp32, int8, tuned = first.variants
    assert fp32.artifact.size_bytes > 0
    assert fp32.drop.value == 0.0
    assert fp32.parity.relative_rms_error < 1e-5
    assert int8.parity.relative_rms_error > fp32.parity.relative_rms_error
    assert tuned.quality.value > fp32.quality.value
    assert len({variant.id for variant in first.variants}) == 3


def test_finding_everything_built_loads_no_torch(again: Path) -> None:
    assert build(again).made == ()  # the task has never been read in this place before
    code = (
        "import sys\nfrom edgedeploy.cli import main\n"
        "assert main(['build', '--json', '-C', sys.argv[1]]) == 0\n"
        "loaded = {'torch', 'onnx', 'onnxruntime', 'litert_torch', 'sklearn'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code, str(again)], check=True, stdout=subprocess.DEVNULL)


def test_another_input_pass_version_or_tool_version_is_another_question(
    again: Path, first: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {variant.name: variant.id for variant in first.variants}

    def changed() -> set[str]:
        plan = Project(again).plan
        digest = first.variants[0].task_digest
        return {r.name for r in identity.requests(plan.recipes, digest, again) if known[r.name] != r.id}

    with monkeypatch.context() as patch:
        patch.setattr(FineTune, "version", FineTune.version + 1)
        assert changed() == {"tuned-onnx-fp32"}
    real = importlib.metadata.version
    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", lambda name: "0.0.1" if name == "onnxruntime" else real(name))
        assert changed() >= {"dense-onnx-int8-u8s8"}
    assert changed() == set()
    (again / "task.py").write_text(TASK.replace("Linear(64, 16)", "Linear(64, 20)").replace("(16, 10)", "(20, 10)"))
    rebuilt = build(again)
    assert len(rebuilt.made) == 3
    assert rebuilt.variants[0].task_digest != first.variants[0].task_digest
    assert not {variant.id for variant in rebuilt.variants} & set(known.values())


def test_what_may_be_lost_is_part_of_the_question_of_quantised_files_alone() -> None:
    targets = (Target(Format.ONNX, Precision.FP32), Target(Format.ONNX, Precision.FP16))
    ids = {
        limit: [r.id for r in identity.requests([Recipe("plain", (), targets, limit)], "0" * 64, Path())]
        for limit in (None, 0.01, 0.02)
    }
    assert {ids[None][0]} == {ids[0.01][0]} == {ids[0.02][0]}
    assert len({ids[None][1], ids[0.01][1], ids[0.02][1]}) == 3


def test_the_content_of_files_that_a_pass_reads_is_part_of_the_question(tmp_path: Path) -> None:
    targets = (Target(Format.ONNX, Precision.FP32),)

    def asked() -> str:
        recipe = Recipe("soup", (Soup(files=("a.pt", "b.pt")),), targets)
        return identity.requests([recipe], "0" * 64, tmp_path)[0].id

    ids = [asked()]
    for name, content in (("a.pt", "one"), ("b.pt", "two"), ("a.pt", "three")):
        (tmp_path / name).write_text(content)
        ids.append(asked())
    assert len(set(ids)) == 4
    (tmp_path / "a.pt").write_text("one")
    assert asked() == ids[2]


def test_the_guard_holds_the_files_of_its_recipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(export.EXPORTERS, Format.ONNX, coarse)
    plan = PLAN.replace('"int8"', '"w8"')
    (folder / "edgedeploy.toml").write_text(plan + "max_drop = 0.02\n")
    refused = build(folder)
    assert [variant.name for variant in refused.variants] == ["dense-onnx-fp32"]
    (failure,) = refused.failures
    assert "onnx-w8: 100 selection examples cannot show" in failure.reason
    (folder / "edgedeploy.toml").write_text(plan + "max_drop = 0.2\n")
    fp32, w8 = build(folder).variants
    assert (w8.kept_float, w8.operators[0].weights) == ((), "int8")
    assert w8.artifact != fp32.artifact


def test_a_renamed_recipe_is_the_same_question(again: Path, first: Built) -> None:
    (again / "edgedeploy.toml").write_text(TUNED.replace('"dense"', '"plain"'))
    second = build(again)
    assert second.made == ()
    assert [variant.name for variant in Project(again).variants()][:2] == ["plain-onnx-fp32", "plain-onnx-int8-u8s8"]
    assert [v.id for v in second.variants] == [v.id for v in first.variants]


def test_an_interrupted_build_keeps_what_is_whole_and_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = export.quantise

    def interrupted(source: Any, target: Any, task: Any, place: Path) -> Any:
        if target.precision == "int8":
            (place / "model.onnx").write_bytes(b"half a file")
            raise KeyboardInterrupt
        return real(source, target, task, place)

    with monkeypatch.context() as patch:
        patch.setattr(export, "quantise", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(folder)
    store = folder / ".edgedeploy"
    assert not (store / "tmp").exists()
    assert b"half a file" not in {path.read_bytes() for path in (store / "objects" / "sha256").iterdir()}
    assert build(folder).made == ("dense-onnx-int8-u8s8", "tuned-onnx-fp32")


def test_a_variant_that_fails_does_not_stop_the_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = export.quantise

    def failing(source: Any, target: Any, task: Any, place: Path) -> Any:
        if target.precision == "int8":
            raise ExportError("no int8 today")
        return real(source, target, task, place)

    monkeypatch.setattr(export, "quantise", failing)
    built = build(folder)
    assert [(failure.variant, failure.reason) for failure in built.failures] == [
        ("dense-onnx-int8-u8s8", "no int8 today")
    ]
    assert built.made == ("dense-onnx-fp32", "tuned-onnx-fp32")


def test_weights_that_are_not_there_say_how_to_get_them(folder: Path) -> None:
    plan = TUNED.replace('file = "task.py"', 'file = "task.py"\nweights = "w.safetensors"')
    (folder / "edgedeploy.toml").write_text(plan)
    with pytest.raises(PlanError, match=r"w\.safetensors: the weights are not there; put the file there"):
        build(folder)
    (folder / "edgedeploy.toml").write_text(plan.replace("[goal]", "[train]\nepochs = 1\n[goal]"))
    with pytest.raises(PlanError, match="run `edgedeploy train`"):
        build(folder)


def test_two_builds_at_once_are_refused(folder: Path) -> None:
    (folder / "edgedeploy.toml").write_text(SMALLEST)
    (folder / ".edgedeploy").mkdir()
    with (folder / ".edgedeploy" / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="another build is under way"):
            build(folder)
    assert build(folder).made


def test_a_tool_that_is_not_installed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(PlanError, match=r"is not installed.*pip install 'edgedeploy\["):
        build(folder)


def test_a_killed_build_leaves_its_workspace_to_the_next(folder: Path) -> None:
    (folder / "edgedeploy.toml").write_text(SMALLEST)
    workspace = folder / ".edgedeploy" / "tmp" / "left"
    workspace.mkdir(parents=True)
    (workspace / "model.onnx").write_bytes(b"half")
    assert build(folder).made
    assert not workspace.exists()
    assert not (folder / ".edgedeploy" / "tmp").exists()
