"""Makes a variant once more, to look inside: its net and its file, layer beside layer."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgedeploy import compress
from edgedeploy.build.identity import Request, requests
from edgedeploy.errors import PlanError
from edgedeploy.export.layer_errors import LayerErrors, compare_layers
from edgedeploy.records import Variant
from edgedeploy.task import load_task

if TYPE_CHECKING:
    from edgedeploy.plan import Plan
    from edgedeploy.store import Store


def layer_errors(plan: Plan, store: Store, variant: Variant, on_step: Callable[[str], None]) -> LayerErrors:
    """Compress the net as the variant's recipe says, export it with names, and hold each layer against the net's.

    Raises PlanError where task, plan or tools have changed since the variant was built, ExportError where its file
    cannot be made again.
    """
    on_step(f"load {variant.name}")
    task = load_task(plan.task_file, plan.weights, plan.source)
    planned = {request.id: request for request in requests(plan.recipes, task.digest, task.folder)}
    request: Request | None = planned.get(variant.id)
    if request is None:
        raise PlanError(
            f"{variant.name}: the task, the plan or a tool has changed since it was built; run `edgedeploy build`."
        )
    model = compress.apply_passes(task.load_model(), request.recipe.passes, task, partial(_say, on_step, variant.name))
    on_step(f"export {variant.name}")
    with tempfile.TemporaryDirectory(prefix="edgedeploy-layers-") as folder:
        artifact = store.path(variant.artifact).read_bytes()
        return compare_layers(model, variant.target, task, variant.kept_float, artifact, Path(folder))


def _say(on_step: Callable[[str], None], name: str, text: str) -> None:
    on_step(f"{name}: {text}")
