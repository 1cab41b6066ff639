"""Names the question that a variant answers, so that the same question is never answered twice."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedeploy import compress, export, packing
from edgedeploy.build import guard
from edgedeploy.errors import PlanError
from edgedeploy.records import PassSettings, Precision, Recipe, Target


@dataclass(frozen=True, slots=True)
class Request:
    """One variant that a plan asks for."""

    id: str
    name: str
    recipe: Recipe
    target: Target
    passes: tuple[PassSettings, ...]
    tools: dict[str, str]


def requests(recipes: Sequence[Recipe], task_digest: str, folder: Path) -> list[Request]:
    """Every variant that the recipes ask for, in their order; `folder` is the task's, for files that passes read.

    Raises PlanError where a tool is not installed.
    """
    return [_request(recipe, target, task_digest, folder) for recipe in recipes for target in recipe.targets]


def _request(recipe: Recipe, target: Target, task_digest: str, folder: Path) -> Request:
    passes = tuple(compress.settings(step) for step in recipe.passes)
    needed = {tool for step in recipe.passes for tool in compress.tools(step)} | {"torch", *export.tools(target)}
    ours = {"edgedeploy.export": str(export.VERSION), "edgedeploy.packing": str(packing.VERSION)}
    tools = {**_versions(needed), **ours}
    question: dict[str, Any] = {
        "task": task_digest,
        "passes": [dataclasses.asdict(settings) for settings in passes],
        "target": dataclasses.asdict(target),
        "tools": tools,
    }
    if recipe.max_drop is not None and target.precision is not Precision.FP32:
        question["guard"] = {"max_drop": recipe.max_drop, "version": guard.VERSION}
    read = {name: _sha256(folder / name) for step in recipe.passes for name in getattr(step, "reads", ())}
    if read:
        question["files"] = read
    canonical = json.dumps(question, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return Request(
        id=hashlib.sha256(canonical.encode()).hexdigest(),
        name=f"{recipe.name}-{target}",
        recipe=recipe,
        target=target,
        passes=passes,
        tools=tools,
    )


def _sha256(path: Path) -> str | None:
    """None where there is no such file: the pass that reads it says so."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _versions(distributions: Iterable[str]) -> dict[str, str]:
    versions = {}
    for name in sorted(distributions):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise PlanError(
                f"{name} is not installed, and a recipe needs it to build: pip install 'edgedeploy[onnx,tflite]'."
            ) from None
    return versions
