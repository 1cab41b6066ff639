"""The verbs about releases on boards: deploy, rollback, status, gc."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedeploy.cli.options import Devices, Folder, Json
from edgedeploy.cli.verbs import Accelerator, app
from edgedeploy.errors import PlanError

if TYPE_CHECKING:
    from edgedeploy.project import Project

All = Annotated[bool, typer.Option("--all", help="All devices of fleet.toml.")]
Key = Annotated[
    str | None,
    typer.Option("--key", metavar="NAME", help="The key that signs. That of [deploy], or the only one, by default."),
]


def asking() -> Callable[[str], str] | None:
    """What asks for a passphrase on the terminal; None where there is none."""
    return _passphrase if sys.stdin.isatty() else None


def _passphrase(prompt: str) -> str:
    try:
        return getpass.getpass(prompt)
    except EOFError:
        return ""


def named(project: Project, names: list[str], *, every: bool) -> list[str]:
    """The names given, none where all devices are asked for: what changes boards wants one of both said."""
    if bool(names) == every:
        there = ", ".join(device.name for device in project.fleet.devices) or "none yet"
        raise PlanError(f"name devices with --device, or say --all, and not both; there: {there}.")
    return names


@app.command()
def deploy(
    project: Folder = Path(),
    device: Devices = [],  # noqa: B006 - typer reads it, nobody writes it
    every: All = False,
    variant: Annotated[
        str | None, typer.Option("--variant", metavar="NAME", help="Another variant than `select` chooses.")
    ] = None,
    key: Key = None,
    accelerator: Accelerator = None,
    afresh: Annotated[bool, typer.Option("--afresh", help="Deploy even what is active already.")] = False,
    as_json: Json = False,
) -> None:
    """Make the chosen variant active on boards.

    It is pushed, signed as a release, verified there, activated at once and put to the test; a release that does not
    prove itself is rolled back by the board.
    """
    from edgedeploy import pipeline
    from edgedeploy.cli import output
    from edgedeploy.cli.releases import print_activated
    from edgedeploy.project import Project

    opened = Project(project)
    names = named(opened, device, every=every)
    with output.progress() as progress:
        visits = pipeline.deploy(opened, names, variant, key, accelerator, progress, afresh=afresh, ask=asking())
    raise typer.Exit(print_activated(visits, as_json=as_json))


@app.command()
def rollback(
    project: Folder = Path(),
    device: Devices = [],  # noqa: B006
    every: All = False,
    as_json: Json = False,
) -> None:
    """Make the release before the active one again.

    The board verifies it first and puts it to the test like a new one.
    """
    from edgedeploy.cli.releases import print_activated
    from edgedeploy.lab import releasing
    from edgedeploy.project import Project

    opened = Project(project)
    names = named(opened, device, every=every)
    visits = releasing.over_deployable(opened, names, partial(releasing.roll_back, opened))
    raise typer.Exit(print_activated(visits, as_json=as_json))


@app.command()
def status(
    project: Folder = Path(),
    device: Devices = [],  # noqa: B006
    offline: Annotated[bool, typer.Option("--offline", help="What the boards had when they were last seen.")] = False,
    as_json: Json = False,
) -> None:
    """Show which release is active on each board.

    Since when, signed by which key, what was before, and whether its files are still what was signed. Exit code 1 where
    some are not.
    """
    from edgedeploy.cli.releases import print_status
    from edgedeploy.lab import releasing
    from edgedeploy.project import Project

    opened = Project(project)
    look = (lambda _: None) if offline else partial(releasing.status, opened)
    visits = releasing.over_deployable(opened, device, look)
    stored = {one.device: None if one.passed_over else opened.store.releases(one.device) for one in visits}
    raise typer.Exit(print_status(visits, stored, as_json=as_json))


@app.command()
def gc(
    project: Folder = Path(),
    device: Devices = [],  # noqa: B006
    every: All = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    keep_hours: Annotated[
        float, typer.Option(min=0, max=100_000, help="Keep what came, or was asked for by a push, so lately.")
    ] = 1.0,
    as_json: Json = False,
) -> None:
    """Remove from boards what no release needs.

    Old objects, caches, agents, runtimes and uploads, on phones too where they have a Python. The active release, the
    one before and what is under way stay.
    """
    from edgedeploy.cli.releases import print_collected
    from edgedeploy.lab import releasing
    from edgedeploy.project import Project

    opened = Project(project)
    names = named(opened, device, every=every)
    visits = releasing.collect(opened, names, dry_run=dry_run, grace_s=3600.0 * keep_hours)
    raise typer.Exit(print_collected(visits, as_json=as_json))
