import dataclasses
from pathlib import Path

import pytest

from edgedeploy.compress import PASSES
from edgedeploy.compress.training import FineTune
from edgedeploy.errors import PlanError
from edgedeploy.examples import EXAMPLES, copy_example
from edgedeploy.plan import load_fleet, load_plan
from edgedeploy.task import load_task, predict
from tests.compress.measures import accuracy
from tests.support.trained import trained

NAMES = ["blank", "digits-cnn", "digits-gru", "digits-transformer"]


def test_every_folder_is_in_the_table() -> None:
    folders = [path.name for path in EXAMPLES["blank"].folder.parent.iterdir() if (path / "task.py").is_file()]
    assert sorted(EXAMPLES) == sorted(folders) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_a_whole_project(name: str, tmp_path: Path) -> None:
    written = copy_example(name, tmp_path / "new" / "project")
    assert [path.name for path in written] == ["edgedeploy.toml", "fleet.toml", "task.py"]
    plan = load_plan(tmp_path / "new" / "project", PASSES)
    assert plan.task_file.is_file()
    assert plan.weights is not None
    assert isinstance(plan.train, FineTune)
    assert sum(len(recipe.targets) for recipe in plan.recipes) >= 8
    assert [device.address for device in load_fleet(tmp_path / "new" / "project").devices] == ["local:"]


def test_the_commented_boards_are_right_too(tmp_path: Path) -> None:
    for name in NAMES:
        lines = (EXAMPLES[name].folder / "fleet.toml").read_text().splitlines()
        keys = ("[", "name", "profile", "address", "root", "python", "ssh_config", "shares", "tags")
        uncommented = [line.removeprefix("# ") if line.removeprefix("# ").startswith(keys) else line for line in lines]
        (tmp_path / "fleet.toml").write_text("\n".join(uncommented))
        assert [device.name for device in load_fleet(tmp_path).devices] == ["here", "desk-pi", "rack-nano"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text("mine")
    with pytest.raises(PlanError, match=r"fleet\.toml is there already; nothing was written"):
        copy_example("blank", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["fleet.toml"]
    assert (tmp_path / "fleet.toml").read_text() == "mine"


def test_an_unknown_name_lists_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"no example `digits`; there: digits-cnn, digits-gru"):
        copy_example("digits", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PlanError, match="cannot be written to"):
        copy_example("blank", tmp_path / "file" / "new")


@pytest.mark.builds
@pytest.mark.parametrize(
    ("name", "floor"), [("digits-cnn", 0.9), ("digits-gru", 0.88), ("digits-transformer", 0.88), ("blank", 0.8)]
)
def test_an_example_learns(name: str, floor: float) -> None:
    task = trained(name)
    assert task.metric_name == "accuracy"
    assert task.preprocessing
    assert len(task.labels) == predict(task.load_model(), task.example)[0].shape[1]
    assert accuracy(dataclasses.replace(task, weights=None).load_model(), task) < 0.5
    assert accuracy(task.load_model(), task) >= floor


@pytest.mark.builds
@pytest.mark.parametrize("name", NAMES)
def test_the_splits_are_seeded_share_nothing_and_hold_every_class(name: str) -> None:
    task, again = (load_task(EXAMPLES[name].folder / "task.py", None) for _ in range(2))
    assert task.digest == again.digest
    splits = (task.train, task.calibration, task.selection, task.test)
    if name != "blank":
        assert [len(split) for split in splits] == [1000, 100, 300, 397]
    classes = range(len(task.labels))
    assert all(set(split.targets.tolist()) == set(classes) for split in splits)
    seen = [{array.tobytes() for array in split.inputs[0]} for split in splits]
    assert sum(map(len, seen)) == len(set().union(*seen))
