"""The verbs about native runners, which measure where no Python runs, and what they print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedeploy.cli.options import Folder, Json

if TYPE_CHECKING:
    from edgedeploy.board.runners import Runner

app = typer.Typer(
    help="Native runners, which measure on boards that have no Python: benchmark_model, onnxruntime_perf_test.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def add(
    path: Annotated[Path, typer.Argument(help="benchmark_model or onnxruntime_perf_test, built for the board.")],
    arch: Annotated[
        str | None, typer.Option(metavar="ARCH", help="What it must have been built for, as aarch64; checked.")
    ] = None,
    beside: Annotated[
        list[Path], typer.Option("--beside", metavar="FILE", help="A library that it needs beside it; repeatable.")
    ] = [],  # noqa: B006 - typer reads it, nobody writes it
    project: Folder = Path(),
    as_json: Json = False,
) -> None:
    """Keep a native runner in the project.

    It is pushed to boards that have no Python, and measures there in place of the agent.
    """
    from edgedeploy.project import Project

    _print([Project(project).runners.add(path, arch, beside)], as_json=as_json)


@app.command("list")
def list_runners(project: Folder = Path(), as_json: Json = False) -> None:
    """List the native runners of the project, the latest first."""
    from edgedeploy.project import Project

    _print(Project(project).runners.list(), as_json=as_json)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(metavar="ID", help="The start of a runner's id, 6 characters at least.")],
    project: Folder = Path(),
    as_json: Json = False,
) -> None:
    """Forget a native runner; what lies on boards stays there."""
    from edgedeploy.project import Project

    _print([Project(project).runners.remove(name)], as_json=as_json)


def _print(runners: Sequence[Runner], *, as_json: bool) -> None:
    from rich.markup import escape

    from edgedeploy.cli.console import out, print_json

    if as_json:
        print_json(list(runners))
        return
    for runner in runners:
        files = escape(", ".join(runner.files))
        out.print(f"{runner.id[:12]}  {runner.kind}  {runner.arch}  {runner.format} files  {files}", soft_wrap=True)
    if not runners:
        out.print("No native runner yet; `edgedeploy runtimes add PATH` keeps one.")
