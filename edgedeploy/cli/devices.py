"""The verbs about the fleet's boards: list, probe, discover, add."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edgedeploy.cli.options import Devices, Folder, Jobs, Json

app = typer.Typer(
    help="List the boards of the fleet, probe them, find new ones and add them.",
    invoke_without_command=True,
    rich_markup_mode=None,
)


@app.callback()
def devices(
    context: typer.Context,
    project: Folder = Path(),
    probe: Annotated[bool, typer.Option("--probe", help="Ask each board what it is.")] = False,
    as_json: Json = False,
) -> None:
    """List the boards of the fleet, probe them, find new ones and add them."""
    verb = context.invoked_subcommand
    if verb is None:
        _show(project, (), as_json=as_json, probe=probe)
    elif context.params != {"project": Path(), "probe": False, "as_json": False}:
        raise typer.BadParameter(f"options go after the verb: edgedeploy devices {verb} ...")


@app.command("list")
def list_(project: Folder = Path(), as_json: Json = False) -> None:
    """List the boards of fleet.toml. Nothing is connected to."""
    _show(project, (), as_json=as_json, probe=False)


@app.command()
def probe(
    project: Folder = Path(),
    device: Devices = [],  # noqa: B006 - typer reads it, nobody writes it
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Ask boards what they are: machine, Python, system."""
    _show(project, device, as_json=as_json, probe=True, jobs=jobs)


@app.command()
def discover(
    project: Folder = Path(),
    ssh_config: Annotated[
        Path | None, typer.Option(help="Look into this ssh_config in place of ~/.ssh/config.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Propose boards for fleet.toml, and write nothing.

    Those that adb sees and the hosts of your ssh_config, but for what is in the fleet already. No host is connected to.
    """
    from edgedeploy.cli.boards import print_candidates
    from edgedeploy.lab.discovery import discover as find
    from edgedeploy.plan import FLEET_FILE, load_fleet, load_profiles
    from edgedeploy.plan.reading import PROFILES_FOLDER

    there = load_fleet(project).devices if (project / FLEET_FILE).exists() else ()
    found, notes = find(there, load_profiles(project / PROFILES_FOLDER), ssh_config)
    print_candidates(found, notes, as_json=as_json)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What the board shall be called.")],
    address: Annotated[str, typer.Argument(help="ssh://[user@]host[:port], adb://serial, or local:")],
    project: Folder = Path(),
    profile: Annotated[
        str | None, typer.Option(help="The kind of board; by its own model by default.", show_default=False)
    ] = None,
    root: Annotated[str | None, typer.Option(help="The folder there that is ours.", show_default=False)] = None,
    python: Annotated[str | None, typer.Option(help="Which Python has the runtimes.", show_default=False)] = None,
    ssh_config: Annotated[str | None, typer.Option(help="In place of ~/.ssh/config.", show_default=False)] = None,
    shares: Annotated[
        str | None, typer.Option(help="What it shares with others, never to be measured at once.", show_default=False)
    ] = None,
    tag: Annotated[list[str], typer.Option(help="A tag; repeatable.")] = [],  # noqa: B006
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Trust an unknown host key without being asked.")] = False,
    fingerprint: Annotated[
        list[str], typer.Option(metavar="SHA256:...", help="The host key that it has to show; repeatable.")
    ] = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Connect to a board, confirm its host key, and add it to fleet.toml.

    The file's comments and tables stay as they are. A host key that has changed is refused, whatever is asked for.
    """
    from edgedeploy.cli.boards import HostKeys, print_enrolled
    from edgedeploy.lab.enrolment import enrol

    given: dict[str, Any] = {"profile": profile, "root": root, "python": python}
    given |= {"ssh_config": ssh_config, "shares": shares, "tags": tag}
    table = {"name": name, "address": address} | {key: value for key, value in given.items() if value}
    keys = HostKeys(yes=yes, fingerprints=fingerprint, may_ask=sys.stdin.isatty() and not as_json)
    print_enrolled(enrol(project, table, keys.confirm), project, as_json=as_json)


def _show(project: Path, names: list[str] | tuple[()], *, as_json: bool, probe: bool, jobs: int | None = None) -> None:
    from edgedeploy import pipeline
    from edgedeploy.cli import output
    from edgedeploy.plan import Fleet
    from edgedeploy.project import Project

    opened = Project(project)
    fleet = Fleet(tuple(opened.devices(names)), opened.fleet.profiles) if names else opened.fleet
    probed = pipeline.probe(opened, names, jobs=jobs) if probe else []
    raise typer.Exit(output.listed(fleet, probed, as_json=as_json))
