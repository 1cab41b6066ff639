from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.cli import main
from edgedeploy.compress import PASSES, apply_passes, misplaced
from edgedeploy.errors import PlanError
from edgedeploy.plan import load_plan, ready_recipes
from edgedeploy.plan.passes import parse_pass
from edgedeploy.records import Format, Precision, Target
from tests.compress.measures import few
from tests.support.trained import trained

NAMES = ("best-accuracy-within", "deep-compression", "fastest-on-arm", "least-memory", "smallest-download")
TASK = '[task]\nfile = "task.py"\n'
RECIPE = '[[recipe]]\nname = "tiny"\nready = "only-training"\n'


def kinds(name: str) -> Iterator[str]:
    """The kinds that a recipe names, wrapped ones included."""
    waiting = list(ready_recipes()[name].table["passes"])
    while waiting:
        step = waiting.pop()
        yield step["kind"]
        if "pass" in step:
            waiting.append(step["pass"])


@pytest.fixture
def only_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a plan, and one ready recipe of passes that are there for sure."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "only-training.toml").write_text(
        '# Of the file, not of the recipe.\ntitle = "Only training"\nwhat_for = "Nothing but training."\n\n[[recipe]]\n'
        'name = "only-training"\n# Of the recipe.\npasses = [\n  { kind = "fine-tune", epochs = 1 },\n'
        '  { kind = "prune-adaptively", epochs = 1, max_drop = 0.1 },\n'
        '  { kind = "prune-adaptively", epochs = 2, max_drop = 0.1 },\n]\n'
        'formats = ["onnx"]\nprecisions = ["fp32", "int8"]\nmax_drop = 0.2\n'
    )
    monkeypatch.setattr("edgedeploy.plan.ready._FOLDER", tmp_path / "recipes")
    ready_recipes.cache_clear()
    yield tmp_path
    ready_recipes.cache_clear()


def load(folder: Path, recipe: str) -> Any:
    (folder / "edgedeploy.toml").write_text(TASK + recipe)
    return load_plan(folder, PASSES, misplaced).recipes[0]


def test_the_ready_recipes_say_what_they_are() -> None:
    found = ready_recipes()
    assert tuple(found) == NAMES
    for name, recipe in found.items():
        assert recipe.name == recipe.table["name"] == name
        assert recipe.title
        assert recipe.what_for.endswith(".")
        assert recipe.what_for.count(". ") == 0
        assert tomllib.loads(recipe.text) == {"recipe": [recipe.table]}, "what is pasted is what is built"


def test_every_kind_that_they_name_is_there() -> None:
    assert {kind for name in NAMES for kind in kinds(name)} - PASSES.keys() == set()


@pytest.mark.parametrize("name", NAMES)
def test_each_is_read_and_in_order(name: str, tmp_path: Path) -> None:
    recipe = load(tmp_path, f'[[recipe]]\nname = "tiny"\nready = "{name}"\n')
    assert recipe.name == "tiny"
    assert len(recipe.passes) == len(ready_recipes()[name].table["passes"])
    assert recipe.targets


@pytest.mark.builds
@pytest.mark.parametrize("family", ["digits-cnn", "digits-gru", "digits-transformer"])
@pytest.mark.parametrize("name", NAMES)
def test_each_runs_on_every_family(name: str, family: str) -> None:
    task = few(trained(family), 300)
    steps = [parse_pass(Path("a"), "passes", _quick(table), PASSES) for table in ready_recipes()[name].table["passes"]]
    model = apply_passes(task.load_model(), steps, task)
    before, after = ([p for p in net.parameters() if p.ndim >= 2] for net in (task.load_model(), model))
    nonzero = [sum(int((weight != 0).sum()) for weight in net) for net in (before, after)]
    assert nonzero[1] < nonzero[0]


def _quick(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same passes with as little training as can be, and a budget that cannot fail for want of it."""
    short = {"epochs": 1, "sparsity": 0.5, "max_drop": 1.0, "folds": 2, "values": table.get("values", ())[:2]}
    step = {key: short.get(key, value) for key, value in table.items()}
    if table["kind"] == "choose-rate":
        step["folds"] = 2
    if table["kind"] == "prune-adaptively":
        step |= {"step": 0.9, "max_sparsity": 0.3}
    return {**step, "pass": _quick(table["pass"])} if "pass" in table else step


def test_a_plan_takes_what_it_does_not_say_from_the_ready_recipe(only_training: Path) -> None:
    recipe = load(only_training, RECIPE)
    assert [step.kind for step in recipe.passes] == ["fine-tune", "prune-adaptively", "prune-adaptively"]
    assert recipe.targets == (Target(Format.ONNX, Precision.FP32), Target(Format.ONNX, Precision.INT8))
    assert (recipe.name, recipe.max_drop) == ("tiny", 0.2)


def test_what_a_plan_says_rules(only_training: Path) -> None:
    recipe = load(only_training, RECIPE + 'formats = ["tflite"]\nprecisions = ["fp16"]\nmax_drop = 0.05\n')
    assert recipe.targets == (Target(Format.TFLITE, Precision.FP16),)
    assert recipe.max_drop == 0.05
    assert [getattr(step, "max_drop", None) for step in recipe.passes] == [None, 0.025, 0.025], "in equal shares"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("only-training", "only-trianing", r"recipe\[0\]\.ready: no ready recipe `only-trianing` \(did you mean `on"),
        ('"only-training"', "3", r"recipe\[0\]\.ready: found 3"),
        ("ready =", 'passes = []\nready = ', r"recipe\[0\]\.passes: only-training brings its own; take passes out"),
        ("ready =", 'max_drop = "a"\nready =', r"recipe\[0\]\.max_drop: found 'a'"),
        ("ready", "raedy", r"recipe\[0\]\.raedy: unknown key \(did you mean `ready`\?\)"),
        ("[[recipe]]", "[recipe]", r"recipe: found .*valid list"),
    ],
)  # fmt: skip
def test_each_mistake_names_its_key(only_training: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(PlanError, match=rf"edgedeploy\.toml: {says}"):
        load(only_training, RECIPE.replace(old, new, 1))


def test_the_command_lists_and_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in NAMES)
    assert "optional fold-batch-norm" in listed
    assert main(["recipes", "deep-compression"]) == 0
    [recipe] = tomllib.loads(capsys.readouterr().out)["recipe"]
    assert recipe["name"] == "deep-compression"
    assert main(["recipes", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == list(NAMES)
    assert main(["recipes", "least-memory", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["table"]["name"] == "least-memory"


def test_the_command_says_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "deep-compresion"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("edgedeploy: no ready recipe `deep-compresion` (did you mean `deep-compression`?); there: ")
    assert told.count("\n") == 1
