"""Prints what each step of a variant's recipe did, and what is left in its layers."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from edgedeploy.cli.console import out
from edgedeploy.cli.words import bytes_text, count_text, on_text, or_absent, percent_text, signed
from edgedeploy.records import EXPORT, LayerAccount, Report, Variant, gain_of_passes, why_unknown

_NO_ACCOUNT = "No account of its steps: it was built before they were kept."


def print_account(variant: Variant, reports: Sequence[Report]) -> None:
    """The steps from the source to the file, what the passes buy, RAM on the boards, and the layers."""
    if not variant.steps:
        out.print(_NO_ACCOUNT)
        return
    out.print(_heading(variant), style="bold")
    out.print(_steps(variant))
    if bought := gain_of_passes(variant.steps):
        out.print(f"The passes buy: {bought}.")
    elif variant.passes:
        out.print(f"What the passes buy is not known: {escape(why_unknown(variant.steps))}.")
    out.print(f"RAM on the board: {_ram(reports)}.", soft_wrap=True)
    if variant.layers:
        out.print(_layers(variant.layers))


def _heading(variant: Variant) -> str:
    found = variant.steps[0].quality
    told = f"; the source has {found.metric} {found.value:.4f} on {found.examples} selection examples" if found else ""
    return escape(f"What each step left{told}")


def _steps(variant: Variant) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("step", overflow="fold")
    for heading in ("drop", "params", "zeros", "MACs", "file", "packed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for step in variant.steps:
        table.add_row(
            escape(str(variant.target.precision) + " file" if step.step == EXPORT else step.step),
            or_absent(signed(step.drop.value) if step.drop else None),
            count_text(step.parameters),
            or_absent(percent_text(step.sparsity) if step.sparsity is not None else None),
            or_absent(count_text(step.macs) if step.macs is not None else None),
            or_absent(bytes_text(step.file_bytes) if step.file_bytes is not None else None),
            or_absent(bytes_text(step.packed_bytes) if step.packed_bytes is not None else None),
        )
    return table


def _ram(reports: Sequence[Report]) -> str:
    told = [
        f"{bytes_text(over)} over the runtime's own on {report.device}{on_text([report])}"
        for report in reports
        if (over := report.metrics.rss_over_runtime_bytes) is not None
    ]
    return ", ".join(told) or "not measured"


def _layers(layers: Sequence[LayerAccount]) -> Table:
    """A column that says nothing of any layer is left out."""
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("shape", no_wrap=True)
    asked = any(one.sensitivity is not None for one in layers)
    for heading in ("zeros", "values", "bits", *(["sensitivity"] if asked else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in layers:
        loses = or_absent(signed(one.sensitivity) if one.sensitivity is not None else None)
        table.add_row(
            escape(one.layer),
            "x".join(map(str, one.shape)),
            percent_text(one.sparsity),
            count_text(one.distinct),
            "float" if one.bits is None else str(one.bits),
            *([loses] if asked else []),
        )
    return table
