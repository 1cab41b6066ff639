"""The verb that brings boards their runtimes, and what it prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedeploy.cli.options import Devices, Folder, Jobs, Json

if TYPE_CHECKING:
    from rich.table import Table

    from edgedeploy.board.provision import Provisioned
    from edgedeploy.lab import Visited


def provision(
    project: Folder = Path(),
    device: Devices = [],  # noqa: B006 - typer reads it, nobody writes it
    runtime: Annotated[
        list[str],
        typer.Option(metavar="NAME", help="onnxruntime, ai-edge-litert or tflite-runtime; the profile's by default."),
    ] = [],  # noqa: B006
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be brought, and send no runtime.")] = False,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Bring boards the runtimes they lack.

    Wheels that fit the board, or a Python of their own, made on this machine: no internet, pip or root there.
    """
    from edgedeploy.cli import output
    from edgedeploy.lab.provisioning import provision_fleet
    from edgedeploy.project import Project

    with output.progress() as progress:
        visits = provision_fleet(Project(project), device, runtime, progress, dry_run=dry_run, jobs=jobs)
    raise typer.Exit(print_provisioned(visits, as_json=as_json))


def print_provisioned(visits: Sequence[Visited[Provisioned]], *, as_json: bool) -> int:
    """What each board has, what came and what cannot be had; returns the exit code."""
    from rich.markup import escape

    from edgedeploy.cli.console import out, print_json
    from edgedeploy.cli.visits import print_errors
    from edgedeploy.lab import worst_exit_code

    if as_json:
        print_json([provisioned_record(visited) for visited in visits])
        return worst_exit_code(visits)
    done = [visited.value for visited in visits if visited.value is not None]
    if done:
        out.print(_table(done))
    for value in done:
        for line in _remarks(value):
            out.print(f"{escape(value.device)}: {escape(line)}", soft_wrap=True)
    return print_errors(visits)


def provisioned_record(visited: Visited[Provisioned]) -> dict[str, object]:
    """What JSON says of one board."""
    from edgedeploy.cli.visits import visit_record

    return visit_record(visited) | (asdict(visited.value) if visited.value is not None else {})


def _table(done: Sequence[Provisioned]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from edgedeploy.cli.words import bytes_text, or_absent

    table = Table(box=None, pad_edge=False)
    for heading in ("device", "machine", "C library", "Python", "has"):
        table.add_column(heading, overflow="fold")
    would = any(value.dry_run for value in done)
    table.add_column("would bring" if would else "brought", overflow="fold")
    table.add_column("sent" if not would else "to send", justify="right", no_wrap=True)
    for value in done:
        found = value.found
        table.add_row(
            *map(escape, (value.device, found.machine, or_absent(found.libc or None), or_absent(found.python or None))),
            escape(_packages(found.runtimes)),
            escape(_packages(value.brought) + (f" ({value.way})" if value.brought else "")),
            bytes_text(value.bytes_sent) if value.brought else or_absent(None),
        )
    return table


def _packages(packages: dict[str, str]) -> str:
    from edgedeploy.cli.words import or_absent

    return ", ".join(f"{name} {version}".strip() for name, version in sorted(packages.items())) or or_absent(None)


def _remarks(value: Provisioned) -> list[str]:
    from edgedeploy.cli.words import bytes_text

    found = value.found
    memory = "" if found.memory_bytes is None else f"{bytes_text(found.memory_bytes)} of memory"
    free = "" if found.free_bytes is None else f"{bytes_text(found.free_bytes)} free in {found.root}"
    every_core = f"every core has {' '.join(found.isa)}" if found.isa else ""
    lines = ["; ".join(filter(None, (found.model, memory, free, every_core)))]
    lines += [f"took {note}" for note in value.notes]
    lines += [f"goes without {name}: {why}" for name, why in value.cannot.items()]
    lines += [
        f"the sensor {name} is there and closed to this user: {who}"
        + ("; let the user join it" if "group" in who else "")
        for name, who in found.closed.items()
    ]
    if not found.executable:
        lines.append(f"nothing can be executed under {found.root}, so that no runtime can be brought there")
    return [line for line in lines if line]
