"""Prints the recipes that are ready, for a user to choose from and to paste."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.markup import escape

from edgedeploy.cli.console import out, print_json
from edgedeploy.plan import ReadyRecipe


def print_recipes(recipes: Mapping[str, ReadyRecipe], *, as_json: bool) -> None:
    """Each recipe with what it is for and its passes."""
    if as_json:
        print_json([asdict(recipe) for recipe in recipes.values()])
        return
    for recipe in recipes.values():
        out.print(f"[bold]{recipe.name}[/]: {escape(recipe.title)}", soft_wrap=True)
        out.print(f"  {escape(recipe.what_for)}", soft_wrap=True)
        out.print(f"  {escape(', '.join(_kinds(step) for step in recipe.table['passes']))}", soft_wrap=True)
    out.print('\nIn edgedeploy.toml: a recipe with a name and ready = "...", or what `edgedeploy recipes NAME` prints.')


def print_recipe(recipe: ReadyRecipe, *, as_json: bool) -> None:
    """The TOML of one recipe, as it may be pasted into edgedeploy.toml."""
    if as_json:
        print_json(asdict(recipe))
    else:
        print(recipe.text, end="")


def _kinds(step: Mapping[str, Any]) -> str:
    """The kind of a pass, and of what it wraps."""
    kind: str = step["kind"]
    return f"{kind} {_kinds(step['pass'])}" if "pass" in step else kind
