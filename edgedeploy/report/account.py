"""Arranges what each step and layer of a recipe came to, once for all the files that share it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgedeploy.records import (
    EXPORT,
    Gain,
    LayerAccount,
    Quality,
    Report,
    StepAccount,
    Variant,
    gain_of_passes,
    why_unknown,
)
from edgedeploy.report.account_figures import Drawn, layers_figure, steps_figure
from edgedeploy.report.units import size

MOST_LAYERS = 40


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step, or one exported file under its variant's name; `memory` is what each board said of that file."""

    name: str
    step: StepAccount
    exported: bool = False
    memory: str = ""


@dataclass(frozen=True, slots=True)
class StepsView:
    """The steps of a recipe in one format: those that all its files share, then the files.

    `bought` is by its passes; None where there are none, or where it is not known, and `why_unknown` then says why.
    """

    title: str
    rows: tuple[StepRow, ...]
    bought: Gain | None
    why_unknown: str
    drawn: Drawn
    anchor: str

    @property
    def metric(self) -> str:
        """The metric with the split that it is of."""
        return metric_of(self.rows)


@dataclass(frozen=True, slots=True)
class RecipeView:
    """What the page says of one recipe's work.

    `open` is true of the one that is shown unfolded. `layers` is None where no weight is zero, shared or known to be
    sensitive; `left_out` counts the layers that are too small to be shown.
    """

    anchor: str
    name: str
    passes: tuple[str, ...]
    steps: tuple[StepsView, ...]
    layers: Drawn | None
    left_out: int
    open: bool


def recipe_views(variants: Sequence[Variant], reports: Sequence[Report]) -> list[RecipeView]:
    """One for each recipe of which an account was kept, in the order of the variants."""
    told = [variant for variant in variants if variant.steps]
    names = dict.fromkeys(variant.recipe for variant in told)
    first = next((variant.recipe for variant in told if variant.passes), next(iter(names), ""))
    return [
        _recipe_view(f"recipe-{index}", [v for v in told if v.recipe == name], reports, open=name == first)
        for index, name in enumerate(names, start=1)
    ]


def metric_of(rows: Sequence[StepRow]) -> str:
    """The metric of the rows with its split, or what stands for it where no row has one."""
    found: Quality | None = next((row.step.quality for row in rows if row.step.quality), None)
    return f"{found.metric} ({found.split})" if found else "metric"


def _recipe_view(
    anchor: str,
    variants: Sequence[Variant],
    reports: Sequence[Report],
    *,
    open: bool,  # noqa: A002 - HTML's own name
) -> RecipeView:
    groups: dict[str, list[Variant]] = {}
    for variant in variants:
        batch = f", batch {variant.target.batch}" if variant.target.batch else ""
        groups.setdefault(f"{variant.target.format}{batch}", []).append(variant)
    told = next((v.layers for v in variants if any(one.sensitivity is not None for one in v.layers)), None)
    layers = _largest(told or variants[0].layers)
    drawn = layers_figure(layers, variants[0].recipe) if any(map(_remarkable, layers)) else None
    return RecipeView(
        anchor=anchor,
        name=variants[0].recipe,
        passes=tuple(step.kind for step in variants[0].passes),
        steps=tuple(
            _steps_view(f"{anchor}-{index}", title, group, reports)
            for index, (title, group) in enumerate(groups.items(), start=1)
        ),
        layers=drawn,
        left_out=len(variants[0].layers) - len(layers),
        open=open,
    )


def _steps_view(anchor: str, title: str, variants: Sequence[Variant], reports: Sequence[Report]) -> StepsView:
    rows = [StepRow(step.step, step) for step in variants[0].steps if step.step != EXPORT]
    for variant in variants:
        rows += [
            StepRow(variant.name, step, exported=True, memory=_memory(variant, reports))
            for step in variant.steps
            if step.step == EXPORT
        ]
    drawn = steps_figure(
        [row.step for row in rows],
        [variant.target.precision + (f"-{variant.target.form}" if variant.target.form else "") for variant in variants],
        metric_of(rows),
        f"{variants[0].recipe} as {title}",
    )
    why = why_unknown(variants[0].steps)
    return StepsView(title, tuple(rows), gain_of_passes(variants[0].steps), why, drawn, anchor)


def _memory(variant: Variant, reports: Sequence[Report]) -> str:
    latest = {r.device: r for r in sorted(reports, key=lambda r: r.measured_at) if r.variant_id == variant.id}
    return ", ".join(
        f"{size(over)} on {device}"
        for device, report in latest.items()
        if (over := report.metrics.rss_over_runtime_bytes) is not None
    )


def _largest(layers: Sequence[LayerAccount]) -> tuple[LayerAccount, ...]:
    """Those that weigh most, in the net's order."""
    if len(layers) <= MOST_LAYERS:
        return tuple(layers)
    ranked = sorted(range(len(layers)), key=lambda i: -math.prod(layers[i].shape))[:MOST_LAYERS]
    return tuple(layers[index] for index in sorted(ranked))


def _remarkable(layer: LayerAccount) -> bool:
    return layer.sparsity > 0 or layer.bits is not None or layer.sensitivity is not None
