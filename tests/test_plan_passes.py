from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgedeploy.compress import PASSES, ChooseRate, OptionalPass, PruneChannels
from edgedeploy.errors import PlanError
from edgedeploy.plan import load_fleet, load_plan, suited_to
from edgedeploy.records import Format, Int8Form, Pass, Precision, Recipe, Target

CHOSEN = 'setting = "ratio", values = [0.25, 0.5], max_drop = 0.01, epochs = 2'
PLAN = f"""
[task]
file = "task.py"

[[recipe]]
name = "chosen"
passes = [
  {{ kind = "fine-tune", epochs = 1 }},
  {{ kind = "choose-rate", pass = {{ kind = "prune-channels", round_to = 4 }}, {CHOSEN} }},
  {{ kind = "optional", pass = {{ kind = "quantise-weights", epochs = 1, bits = 4 }} }},
]
formats = ["onnx"]
precisions = ["fp32"]
"""


def passes_of(folder: Path, plan: str = PLAN) -> tuple[Pass, ...]:
    (folder / "edgedeploy.toml").write_text(plan)
    [recipe] = load_plan(folder, PASSES).recipes
    return recipe.passes


def test_wrapped_passes_are_read(tmp_path: Path) -> None:
    _, chosen, optional = passes_of(tmp_path)
    assert chosen == ChooseRate(
        epochs=2, pass_=PruneChannels(0.25, round_to=4), setting="ratio", values=(0.25, 0.5), max_drop=0.01
    )
    assert isinstance(optional, OptionalPass)
    assert optional.pass_ == PASSES["quantise-weights"](epochs=1, bits=4)  # type: ignore[call-arg]


def test_whole_numbers_stay_whole(tmp_path: Path) -> None:
    plan = PLAN.replace("round_to = 4", "ratio = 0.5").replace('"ratio"', '"round_to"').replace("[0.25, 0.5]", "[1, 4]")
    chosen: Any = passes_of(tmp_path, plan)[1]
    assert chosen.values == (1, 4)
    assert [type(value) for value in chosen.values] == [int, int]


def test_wrappers_may_be_wrapped(tmp_path: Path) -> None:
    old = '{ kind = "quantise-weights", epochs = 1, bits = 4 }'
    optional: Any = passes_of(tmp_path, PLAN.replace(old, f'{{ kind = "optional", pass = {old} }}'))[2]
    assert optional.pass_.pass_.kind == "quantise-weights"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"prune-channels"', '"prune-chanels"', r"1\]\.pass\.kind: found 'prune-chanels' \(did you mean `prune-c"),
        ('kind = "prune-channels", ', "", r"1\]\.pass\.kind: missing; expected one of"),
        ('pass = { kind = "prune-channels", round_to = 4 }, ', "", r"1\]\.pass: missing; add the table of a pass"),
        ('{ kind = "prune-channels", round_to = 4 }', '"prune-channels"', r"1\]\.pass: found 'prune-channels': exp"),
        ("round_to = 4", "rond_to = 4", r"1\]\.pass\.rond_to: unknown key \(did you mean `round_to`\?\)"),
        ("round_to = 4", 'round_to = "x"', r"1\]\.pass\.round_to: found 'x'"),
        ("round_to = 4", "ratio = 0.3", r"1\]\.pass\.ratio: found 0.3, but it is to be chosen; leave it out"),
        ('"ratio"', '"raito"', r"1\]\.setting: 'raito' is no number .*did you mean `ratio`\?\); it has ratio, round"),
        ('"ratio"', '"importance"', r"1\]\.setting: 'importance' is no number that prune-channels may be given"),
        ('setting = "ratio", ', "", r"1\]\.setting: missing; add it"),
        ("[0.25, 0.5]", "[1.25, 1.5]", r"1\]\.pass: found .*: ratio is 1.25; it must lie between 0 and 1"),
        ("[0.25, 0.5]", "[0.25, 1.5]", r"1\]: found .*: values hold 1.5, but of prune-channels ratio is 1.5; it must"),
        ("[0.25, 0.5]", "[0.25, -0.5]", r"1\]: found .*: values hold -0.5, but of prune-channels ratio is -0.5"),
        ("[0.25, 0.5]", '["a"]', r"1\]\.values: found \['a'\]: expected numbers, from mild to strong"),
        ("[0.25, 0.5]", "0.25", r"1\]\.values: found 0.25: expected numbers"),
        ('setting = "ratio"', "setting = 3", r"1\]\.setting: 3 is no number that prune-channels may be given"),
        ("values = [0.25, 0.5], ", "", r"1\]\.values: missing; add it"),
        ("max_drop = 0.01, ", "", r"1\]\.max_drop: missing; add it"),
        ("max_drop", "max_dorp", r"1\]\.max_dorp: unknown key \(did you mean `max_drop`\?\)"),
        ("epochs = 2", "epochs = 0", r"1\]: found .*: epochs is 0; it must be at least 1"),
        ("bits = 4", "bits = 1", r"2\]\.pass: found .*: bits is 1; it must be from 2 to 8"),
        ("pass = { kind = \"quantise", "of = { kind = \"quantise", r"2\]\.of: unknown key.*; expected one of pass"),
    ],
)  # fmt: skip
def test_each_mistake_names_its_key(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in PLAN
    with pytest.raises(PlanError, match=rf"edgedeploy\.toml: recipe\[0\]\.passes\[{says}"):
        passes_of(tmp_path, PLAN.replace(old, new, 1))


def test_a_wrapped_pass_says_which_forms_it_trains_for(tmp_path: Path) -> None:
    plan = PLAN.replace('"quantise-weights", epochs = 1, bits = 4', '"quantise-aware", epochs = 1')
    (tmp_path / "edgedeploy.toml").write_text(plan.replace('["fp32"]', '["int8"]'))
    (tmp_path / "fleet.toml").write_text('[[device]]\nname = "a"\nprofile = "x86-64"\naddress = "local:"\n')
    [recipe] = suited_to(load_fleet(tmp_path), load_plan(tmp_path, PASSES).recipes)
    assert [target.form for target in recipe.targets] == [Int8Form.U8S8]


def test_a_wrapped_pass_cuts_to_widths_that_suit_the_fleet(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text('[[device]]\nname = "a"\nprofile = "x86-64"\naddress = "local:"\n')
    asked = (OptionalPass(PruneChannels(0.5)), OptionalPass(PruneChannels(0.5, round_to=4)))
    recipe = Recipe("narrow", asked, (Target(Format.ONNX, Precision.FP32),))
    [suited] = suited_to(load_fleet(tmp_path), [recipe])
    assert suited.passes == (OptionalPass(PruneChannels(0.5, round_to=16)), asked[1])
