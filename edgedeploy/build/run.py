"""Builds what a plan asks for and the store lacks: compress once per recipe, export and judge each target, keep."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgedeploy import compress, export
from edgedeploy.build.identity import Request, requests
from edgedeploy.errors import CompressionError, ExportError, PlanError, StoreError
from edgedeploy.evaluate import Evaluation, drop, evaluate, evaluate_model
from edgedeploy.records import Recipe, Variant
from edgedeploy.task import Task, load_task, task_digest

if TYPE_CHECKING:
    from torch import nn

    from edgedeploy.plan import Plan
    from edgedeploy.store import Store


@dataclass(frozen=True, slots=True)
class Failure:
    """A variant that the plan asks for and that could not be built, with the reason."""

    variant: str
    reason: str


@dataclass(frozen=True, slots=True)
class Built:
    """All variants of a plan that are there now, in its order; `made` names those that were not found but built now."""

    variants: tuple[Variant, ...]
    made: tuple[str, ...]
    failures: tuple[Failure, ...]


def build(plan: Plan, store: Store, on_step: Callable[[str], None], recipes: Sequence[Recipe]) -> Built:
    """Find or build every variant of these recipes of the plan; one that fails is told and does not stop the others.

    A variant is recorded only when its file, its contract and its probe are in the store and its parity and
    quality are known, so an interrupted build leaves nothing that looks complete. Raises PlanError for what is
    wrong with the task, StoreError where the store refuses.
    """
    if plan.weights is not None and not plan.weights.is_file():
        mend = "run `edgedeploy train`" if plan.train else "put the file there, or add a [train] table"
        raise PlanError(f"{plan.weights}: the weights are not there; {mend}.")
    digest = task_digest(plan.task_file, plan.weights, store.digest_cache())
    planned = requests(plan.recipes, digest)
    found = {request.id: variant for request in planned if (variant := store.variant(request.id)) is not None}
    wanted = {recipe.name for recipe in recipes}
    missing = [request for request in planned if request.id not in found and request.recipe.name in wanted]
    failures: list[Failure] = []
    made: list[str] = []
    if missing:
        with _workspace(store.folder) as workspace:
            task = load_task(plan.task_file, plan.weights)
            for outcome in _build_missing(task, missing, store, workspace, on_step):
                if isinstance(outcome, Failure):
                    failures.append(outcome)
                else:
                    found[outcome.id] = outcome
                    made.append(outcome.name)
    # One question may bear another name in this plan than when it was first answered.
    variants = tuple(
        replace(found[request.id], name=request.name, recipe=request.recipe.name)
        for request in planned
        if request.id in found
    )
    store.set_current(variants)
    return Built(variants, tuple(made), tuple(failures))


def _build_missing(
    task: Task, missing: Sequence[Request], store: Store, workspace: Path, on_step: Callable[[str], None]
) -> Iterator[Variant | Failure]:
    source = evaluate_model(task.load_model(), task, "selection")
    by_recipe: dict[str, list[Request]] = {}
    for request in missing:
        by_recipe.setdefault(request.recipe.name, []).append(request)
    for name, group in by_recipe.items():
        passes = group[0].recipe.passes
        on_step(f"compress {name}" if passes else f"load {name}")
        try:
            model = compress.apply_passes(task.load_model(), passes, task, partial(_say, on_step, name))
        except CompressionError as error:
            yield from (Failure(request.name, str(error)) for request in group)
            continue
        for request in group:
            on_step(f"export {request.name}")
            try:
                yield _build_one(task, model, request, source, store, workspace)
            except ExportError as error:
                yield Failure(request.name, str(error))


def _build_one(
    task: Task, model: nn.Module, request: Request, source: Evaluation, store: Store, workspace: Path
) -> Variant:
    with tempfile.TemporaryDirectory(dir=workspace) as name:
        folder = Path(name)
        source_file = export.convert(model, request.target.format, task, folder, request.target.batch)
        exported = export.quantise(source_file, request.target, task, folder)
        parity = export.check_parity(exported, request.target, task)
        quality = evaluate(exported.path, exported.contract, task, "test").quality
        loss = drop(source, evaluate(exported.path, exported.contract, task, "selection"))
        contract = folder / "contract.json"
        contract.write_text(json.dumps(exported.contract, sort_keys=True, indent=1, allow_nan=False), "utf-8")
        variant = Variant(
            id=request.id,
            name=request.name,
            recipe=request.recipe.name,
            passes=request.passes,
            target=request.target,
            task_digest=task.digest,
            tools=request.tools,
            artifact=store.put(exported.path, request.target.format.value),
            contract=store.put(contract, "json"),
            probe=store.put(exported.probe_path, "npz"),
            parity=parity,
            quality=quality,
            drop=loss,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            zipped_bytes=len(zlib.compress(exported.path.read_bytes(), 9)),
            notes=exported.notes,
            operators=exported.operators,
        )
    store.save_variant(variant)
    return variant


def _say(on_step: Callable[[str], None], recipe: str, text: str) -> None:
    on_step(f"{recipe}: {text}")


@contextlib.contextmanager
def _workspace(store_folder: Path) -> Iterator[Path]:
    """A folder for half-done work that only one build uses at a time, and that a killed build leaves for the next."""
    with (store_folder / "build.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{store_folder}: another build is under way here; wait for it to end.") from None
        workspace = store_folder / "tmp"
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.mkdir()
        try:
            yield workspace
        finally:
            shutil.rmtree(workspace, ignore_errors=True)
