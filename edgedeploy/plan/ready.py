"""Recipes that are ready: TOML files beside this one, for a plan to name and for a user to read and paste."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edgedeploy.errors import PlanError
from edgedeploy.plan.mistakes import did_you_mean

_FOLDER = Path(__file__).resolve().parent / "recipes"


@dataclass(frozen=True, slots=True)
class ReadyRecipe:
    """A recipe that comes with edgedeploy.

    `what_for` is one sentence; `table` is its [[recipe]], `text` the TOML of that, comments included.
    """

    name: str
    title: str
    what_for: str
    table: Mapping[str, Any]
    text: str


@cache
def ready_recipes() -> Mapping[str, ReadyRecipe]:
    """All of them by name."""
    found = {}
    for path in sorted(_FOLDER.glob("*.toml")):
        text = path.read_text("utf-8")
        document = tomllib.loads(text)
        [table] = document["recipe"]
        pasted = text[text.index("[[recipe]]") :]
        found[path.stem] = ReadyRecipe(path.stem, document["title"], document["what_for"], table, pasted)
    return found


def ready_recipe(name: str, where: str = "") -> ReadyRecipe:
    """The one of this name. Raises PlanError, led by `where`, that lists what is there."""
    known = ready_recipes()
    if name not in known:
        raise PlanError(f"{where}no ready recipe `{name}`{did_you_mean(name, known)}; there: {', '.join(known)}.")
    return known[name]


def filled_in(path: Path, document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The document with each recipe that names a ready one given that one's keys, where it has none of its own.

    A recipe's own `max_drop` rules over that of the passes too, in equal shares. Raises PlanError.
    """
    recipes = document.get("recipe")
    if not isinstance(recipes, list):
        return document  # for the check of the whole file to tell
    return {**document, "recipe": [_filled(path, f"recipe[{i}]", table) for i, table in enumerate(recipes)]}


def _filled(path: Path, key: str, table: Any) -> Any:
    name = table.get("ready") if isinstance(table, Mapping) else None
    if not isinstance(name, str):
        return table
    ready = ready_recipe(name, f"{path}: {key}.ready: ")
    if "passes" in table:
        raise PlanError(
            f"{path}: {key}.passes: {name} brings its own; take passes out, or take ready out and paste what "
            f"`edgedeploy recipes {name}` prints."
        )
    return {**_with_budget(ready.table, table.get("max_drop")), **table}


def _with_budget(table: Mapping[str, Any], max_drop: Any) -> Mapping[str, Any]:
    shared_by = sum("max_drop" in step for step in table["passes"])
    if not shared_by or not isinstance(max_drop, (int, float)):
        return table
    share = {"max_drop": max_drop / shared_by}
    return {**table, "passes": [{**step, **share} if "max_drop" in step else step for step in table["passes"]]}
