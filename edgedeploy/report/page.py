"""Writes the page: one file that needs no network, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from edgedeploy.errors import StoreError
from edgedeploy.records import Choice, Device, Report, Variant
from edgedeploy.report import units
from edgedeploy.report.account import recipe_views
from edgedeploy.report.conditions import circumstances, nodes, shared_facts, told_columns
from edgedeploy.report.figures import histogram, picture
from edgedeploy.report.view import device_views

if TYPE_CHECKING:
    from jinja2 import Environment


def write_report(
    path: Path,
    *,
    title: str,
    variants: Sequence[Variant],
    reports: Sequence[Report],
    choices: Sequence[Choice],
    failures: Sequence[tuple[str, str]],
    devices: Sequence[Device],
) -> None:
    """Write the page to `path`, replacing what is there only when the new page is complete.

    `failures` are pairs of what failed (a variant, a device) and why. Of several reports by one device on one
    variant the newest is shown. Missing folders are made. Raises StoreError where the file cannot be written.
    """
    page = render(title=title, variants=variants, reports=reports, choices=choices, failures=failures, devices=devices)
    # Beside the target, since a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(page)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        why = error.strerror or str(error)
        raise StoreError(f"{path}: the report cannot be written ({why}); name a file that you may write.") from error


def render(
    *,
    title: str,
    variants: Sequence[Variant],
    reports: Sequence[Report],
    choices: Sequence[Choice],
    failures: Sequence[tuple[str, str]],
    devices: Sequence[Device],
) -> str:
    """The page as text; what `write_report` writes."""
    views = device_views(variants, reports, choices, devices)
    pictures = {view.anchor: drawn for view in views if (drawn := picture(view)) is not None}
    recipes = recipe_views(variants, reports)
    template = _environment().get_template("page.html.j2")
    return template.render(
        title=title,
        made_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        views=views,
        pictures=pictures,
        variants=variants,
        failures=failures,
        recipes=recipes,
        plotly=_plotly() if pictures or recipes else "",
    )


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Not by file ending: the templates end in .j2, which select_autoescape would take for plain text.
    environment = Environment(
        loader=PackageLoader("edgedeploy.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (units.number, units.ms, units.mj, units.size, units.count, units.percent)
    environment.filters.update({f.__name__: f for f in filters})
    environment.globals.update(
        interval=units.interval,
        circumstances=circumstances,
        nodes=nodes,
        shared_facts=shared_facts,
        told_columns=told_columns,
        histogram=_samples_histogram,
    )
    return environment


def _samples_histogram(report: Report) -> object:
    return histogram([ns for repetition in report.conditions.repetitions for ns in repetition.samples_ns])


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
