"""Prints how far each layer of a file strays from its net."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from edgedeploy.cli.console import out

if TYPE_CHECKING:
    from edgedeploy.export.layer_errors import LayerErrors


def print_layers(errors: LayerErrors, variant: str) -> None:
    """One row a layer, in the order of execution, with what is remarkable about it."""
    heading = f"{variant} beside {errors.source}, layer by layer, on {errors.examples} selection examples"
    out.print(f"[bold]{escape(heading)}[/]", soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("relative RMS error", justify="right")
    table.add_column("")
    for one in errors.layers:
        marks = [one.why] if one.why else []
        if one.layer == errors.first_above:
            marks.append(f"first above {errors.tolerance:g}")
        if one.layer == errors.largest_jump:
            marks.append("largest jump")
        error = "-" if one.relative_rms_error is None else f"{one.relative_rms_error:.2g}"
        style = "red" if one.layer == errors.first_above else "yellow" if one.layer == errors.largest_jump else None
        table.add_row(escape(one.layer), one.kind, error, escape(", ".join(marks)), style=style)
    out.print(table)
    if errors.first_above is None:
        out.print(f"No layer strays by more than {errors.tolerance:g}, what the precision is held to.")
