"""The options that several verbs share, so that each has one name and one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[
    Path, typer.Option("--project", "-C", help="The folder with edgedeploy.toml.", show_default="this one")
]
Json = Annotated[bool, typer.Option("--json", help="Print the records as JSON and nothing else on stdout.")]
Devices = Annotated[
    list[str], typer.Option("--device", "-d", metavar="NAME", help="A device of fleet.toml; repeat it for several.")
]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", "-j", min=1, max=1000, help="How many boards at once; 16 by default.", show_default=False),
]
