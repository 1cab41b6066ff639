"""Builds what a plan asks for and the store lacks, and keeps what is whole: here alone the store is written."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgedeploy import packing
from edgedeploy.build.identity import Request, requests
from edgedeploy.build.job import Bench, Failure, Ground, Job, Made
from edgedeploy.build.workers import OnSay, affordable, in_processes
from edgedeploy.errors import PlanError, StoreError
from edgedeploy.records import Recipe, Variant
from edgedeploy.task import task_digest

if TYPE_CHECKING:
    from edgedeploy.plan import Plan
    from edgedeploy.progress import Progress
    from edgedeploy.store import Store


@dataclass(frozen=True, slots=True)
class Built:
    """All variants of a plan that are there now, in its order; `made` names those that were not found but built now.

    `no_board` names those that no board of the fleet can run, each with the reason.
    """

    variants: tuple[Variant, ...]
    made: tuple[str, ...]
    failures: tuple[Failure, ...]
    no_board: tuple[tuple[str, str], ...] = ()


def build(plan: Plan, store: Store, progress: Progress, recipes: Sequence[Recipe], jobs: int | None = None) -> Built:
    """Find or build every variant of these recipes of the plan; one that fails is told and does not stop the others.

    `jobs` is how many processes share the work, by default what cores and free memory allow; the files and figures
    are the same with any number. A variant is recorded only when its file, its contract and its probe are in the
    store and its parity and quality are known, so an interrupted build leaves nothing that looks complete. Raises
    PlanError for what is wrong with the task, StoreError where the store refuses.
    """
    if plan.weights is not None and not plan.weights.is_file():
        mend = "run `edgedeploy train`" if plan.train else "put the file there, or add a [train] table"
        raise PlanError(f"{plan.weights}: the weights are not there; {mend}.")
    digest = task_digest(plan.task_file, plan.weights, store.digest_cache(), plan.source)
    planned = requests(plan.recipes, digest, plan.task_file.parent)
    found = {request.id: variant for request in planned if (variant := store.variant(request.id)) is not None}
    wanted = {recipe.name for recipe in recipes}
    missing = [request for request in planned if request.id not in found and request.recipe.name in wanted]
    failed: dict[str, Failure] = {}
    made: set[str] = set()
    if missing:
        ground = Ground(plan.task_file, plan.weights, digest, plan.source)
        with _workspace(store.folder) as workspace:
            at: tuple[str, ...] = ()

            def say(texts: tuple[str, ...]) -> None:
                nonlocal at
                at = texts
                progress.building(len(made) + len(failed), len(missing), at)

            with contextlib.closing(_build_missing(missing, ground, workspace, say, jobs)) as outcomes:
                for outcome in outcomes:
                    if isinstance(outcome, Failure):
                        failed[outcome.variant] = outcome
                    else:
                        found[outcome.request.id] = _keep(outcome, digest, store)
                        made.add(outcome.request.name)
                        shutil.rmtree(outcome.contract.parent)
                    say(at)
    # One question may bear another name in this plan than when it was first answered.
    variants = tuple(
        replace(found[request.id], name=request.name, recipe=request.recipe.name)
        for request in planned
        if request.id in found
    )
    store.set_current(variants)
    return Built(
        variants,
        tuple(request.name for request in missing if request.name in made),
        tuple(failed[request.name] for request in missing if request.name in failed),
    )


def _build_missing(
    missing: Sequence[Request], ground: Ground, workspace: Path, say: OnSay, count: int | None
) -> Generator[Made | Failure]:
    count = min(affordable() if count is None else count, len(_by(missing, _unit)))
    if count > 1:
        yield from in_processes(_shared_jobs(missing, workspace), ground, workspace, count, say)
        return
    # Another process would first spend seconds on loading torch, and the converters, again.
    bench = Bench(replace(ground, digest=None))
    for number, group in enumerate(_by(missing, _unit)):
        folder = workspace / f"job-{number}"
        folder.mkdir()
        yield from bench.do(Job(group[0].recipe, group), folder, lambda text, _=None: say((text,)))


def _shared_jobs(missing: Sequence[Request], workspace: Path) -> list[Job]:
    """A job for each recipe and format; where a recipe has passes and several formats, they wait for its net.

    Passes come first: they are the long part.
    """
    jobs: list[Job] = []
    for group in _by(missing, lambda request: request.recipe.name):
        recipe = group[0].recipe
        units = _by(group, _unit)
        if recipe.passes and len(units) > 1:
            net = workspace / f"{recipe.name}.net"
            then = tuple(Job(recipe, unit, net) for unit in units)
            jobs.append(Job(recipe, group, net, exports=False, then=then))
        else:
            jobs += (Job(recipe, unit) for unit in units)
    return sorted(jobs, key=lambda job: not job.recipe.passes)


def _unit(request: Request) -> tuple[str, str, int | None]:
    return request.recipe.name, request.target.format, request.target.batch


def _by(group: Sequence[Request], key: Callable[[Request], Hashable]) -> list[tuple[Request, ...]]:
    """Requests of one key together, in the order in which the keys first come."""
    groups: dict[Hashable, list[Request]] = {}
    for request in group:
        groups.setdefault(key(request), []).append(request)
    return [tuple(together) for together in groups.values()]


def _keep(made: Made, digest: str, store: Store) -> Variant:
    request = made.request
    variant = Variant(
        id=request.id,
        name=request.name,
        recipe=request.recipe.name,
        passes=request.passes,
        target=request.target,
        task_digest=digest,
        tools=request.tools,
        artifact=store.put(made.path, request.target.format.value),
        contract=store.put(made.contract, "json"),
        probe=store.put(made.probe, "npz"),
        parity=made.parity,
        quality=made.quality,
        drop=made.drop,
        parameters=made.parameters,
        packed=store.put(made.packed, packing.FORMAT),
        notes=made.notes,
        operators=made.operators,
        kept_float=made.kept_float,
        sensitivity=made.sensitivity,
        steps=made.steps,
        layers=made.layers,
    )
    store.save_variant(variant)
    return variant


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
