"""The verbs about the keys that sign releases, and the boards that trust them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from edgedeploy.cli.deploying import All, Key, asking, named
from edgedeploy.cli.options import Devices, Folder, Json
from edgedeploy.cli.verbs import app

keys = typer.Typer(help="Make and list signing keys, and have boards trust them.", no_args_is_help=True)
app.add_typer(keys, name="keys")

Name = Annotated[str, typer.Argument(help="The key's name.")]


@keys.command()
def new(name: Name, as_json: Json = False) -> None:
    """Make a key.

    An ed25519 key in OpenSSH's form, in your configuration folder, for you alone to read.
    """
    from edgedeploy import deploy
    from edgedeploy.cli.releases import print_keys

    print_keys([deploy.new_key(name)], as_json=as_json)


@keys.command("list")
def list_(as_json: Json = False) -> None:
    """List your keys with their fingerprints."""
    from edgedeploy import deploy
    from edgedeploy.cli.releases import print_keys

    print_keys(deploy.list_keys(), as_json=as_json)


@keys.command()
def show(name: Name, as_json: Json = False) -> None:
    """Show one key: fingerprint, public key, file."""
    from edgedeploy.cli.releases import print_key
    from edgedeploy.deploy.keys import find_key

    print_key(find_key(name), as_json=as_json)


@keys.command()
def enrol(
    project: Folder = Path(),
    device: Devices = [],  # noqa: B006 - typer reads it, nobody writes it
    every: All = False,
    key: Key = None,
    replaces: Annotated[
        str | None,
        typer.Option(metavar="FINGERPRINT", help="The key that the board trusts now, where it is lost: SHA256:..."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Have boards trust a key, explicitly.

    The first `deploy` does it too. A board that trusts another key refuses: rotate it.
    """
    from edgedeploy import deploy
    from edgedeploy.cli.releases import print_enrolled
    from edgedeploy.lab import releasing
    from edgedeploy.project import Project

    opened = Project(project)
    loaded = deploy.load_key(key or opened.plan.deploy.key, asking())
    names = named(opened, device, every=every)
    visits = releasing.over_deployable(opened, names, partial(releasing.enrol, opened, key=loaded, replaces=replaces))
    raise typer.Exit(print_enrolled(visits, as_json=as_json))


@keys.command()
def rotate(
    to: Annotated[str, typer.Option("--to", metavar="NAME", help="The key that boards are to trust from now on.")],
    project: Folder = Path(),
    device: Devices = [],  # noqa: B006
    every: All = False,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Have boards trust another key.

    The one that they trust now signs the change.
    """
    from edgedeploy import deploy
    from edgedeploy.cli.releases import print_enrolled
    from edgedeploy.lab import releasing
    from edgedeploy.project import Project

    opened = Project(project)
    ask = asking()
    old, fresh = deploy.load_key(key or opened.plan.deploy.key, ask), deploy.load_key(to, ask)
    names = named(opened, device, every=every)
    visits = releasing.over_deployable(opened, names, partial(releasing.rotate, opened, old=old, new=fresh))
    raise typer.Exit(print_enrolled(visits, as_json=as_json))
