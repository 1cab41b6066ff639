"""The verbs of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgedeploy.cli import devices, doctor, provision, runtimes
from edgedeploy.cli.options import Devices, Folder, Jobs, Json
from edgedeploy.errors import ExitCode

app = typer.Typer(
    help="Compress a PyTorch model, measure its variants on the boards themselves, and pick the best for each.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(devices.app, name="devices")
app.add_typer(runtimes.app, name="runtimes")
app.command()(doctor.doctor)
app.command()(provision.provision)
Variants = Annotated[
    list[str], typer.Option("--variant", metavar="NAME", help="A variant's name or the start of its id; repeatable.")
]
Mode = Annotated[
    Literal["smoke", "quick", "full"] | None,
    typer.Option(help="How long to measure: at least 6, 10 or 60 s a variant. The plan's mode by default."),
]
Accelerator = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="What the boards compute on: cpu, or one that the device's profile lists."),
]
Afresh = Annotated[bool, typer.Option("--afresh", help="Do again what was already done.")]


@app.callback(invoke_without_command=True)
def edgedeploy(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """Compress a PyTorch model, measure its variants on the boards themselves, and pick the best for each."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(installed("edgedeploy"))
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where to write the project; made where it is not there.")] = Path(),
    example: Annotated[str, typer.Option(help="blank, digits-cnn, digits-gru or digits-transformer.")] = "blank",
    as_json: Json = False,
) -> None:
    """Write a project to start from.

    It holds edgedeploy.toml, fleet.toml and a task file. Nothing that is there is overwritten.
    """
    from edgedeploy.cli import output
    from edgedeploy.examples import copy_example

    files = copy_example(example, folder)
    output.initialised(folder, files, as_json=as_json)


@app.command()
def train(project: Folder = Path(), afresh: Afresh = False, as_json: Json = False) -> None:
    """Train the source net as the plan says.

    Its [train] table holds the settings; the weights go to the file that [task] names.
    """
    from edgedeploy import pipeline
    from edgedeploy.cli import output
    from edgedeploy.project import Project

    opened = Project(project)
    with output.progress() as progress:
        trained = pipeline.train(opened, progress, afresh=afresh)
    output.trained(opened, trained, as_json=as_json)


@app.command()
def build(
    project: Folder = Path(),
    recipe: Annotated[
        list[str], typer.Option("--recipe", metavar="NAME", help="A recipe of the plan; repeatable.")
    ] = [],  # noqa: B006
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", "-j", min=1, help="How many processes build. As many as cores and memory allow by default."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compress and export what is not built yet.

    A variant that cannot be built is told with its reason, and the others are built all the same.
    """
    from edgedeploy import pipeline
    from edgedeploy.cli import output
    from edgedeploy.project import Project

    with output.progress() as progress:
        built = pipeline.build(Project(project), recipe, progress, jobs)
    output.built(built, as_json=as_json)
    if built.failures:
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def push(
    project: Folder = Path(),
    device: Devices = [],  # noqa: B006 - typer reads it, nobody writes it
    variant: Variants = [],  # noqa: B006
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send no variant.")] = False,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Send to boards the variants that they lack.

    Every variant that the board's profile can run, or those named. Each file is verified on the board by its hash.
    """
    from edgedeploy import pipeline
    from edgedeploy.cli import output
    from edgedeploy.project import Project

    with output.progress() as progress:
        visits = pipeline.push(Project(project), device, variant, progress, dry_run=dry_run, jobs=jobs)
    raise typer.Exit(output.pushed(visits, dry_run=dry_run, as_json=as_json))


@app.command()
def profile(
    project: Folder = Path(),
    device: Devices = [],  # noqa: B006
    variant: Variants = [],  # noqa: B006
    mode: Mode = None,
    accelerator: Accelerator = None,
    afresh: Afresh = False,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Measure variants on the boards themselves.

    Latency, memory, and power where the board has a sensor. What was measured in this way before is found again.
    """
    from edgedeploy import pipeline
    from edgedeploy.cli import output
    from edgedeploy.project import Project

    with output.progress() as progress:
        visits = pipeline.profile(
            Project(project), device, variant, progress, mode, accelerator, afresh=afresh, jobs=jobs
        )
    raise typer.Exit(output.profiled(visits, as_json=as_json))


@app.command()
def select(
    project: Folder = Path(),
    device: Devices = [],  # noqa: B006
    accelerator: Accelerator = None,
    as_json: Json = False,
) -> None:
    """Choose for each device; say why others lost.

    The goal's and the profile's limits first, then the Pareto front, then the goal's objective.
    """
    from edgedeploy import pipeline
    from edgedeploy.cli import output
    from edgedeploy.project import Project

    choices = pipeline.select(Project(project), device, accelerator)
    output.selected(choices, as_json=as_json)
    if not all(choice.winner for choice in choices):
        raise typer.Exit(ExitCode.NOTHING_QUALIFIES)


@app.command()
def run(
    project: Folder = Path(),
    device: Devices = [],  # noqa: B006
    mode: Mode = None,
    accelerator: Accelerator = None,
    afresh: Afresh = False,
    provision: Annotated[
        bool, typer.Option("--provision", help="Bring boards the runtimes they lack before anything is pushed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Walk the whole road, from where it stopped.

    Train, build, push, profile, select and report, each doing only what is not done yet.
    """
    from edgedeploy import pipeline
    from edgedeploy.cli import output
    from edgedeploy.project import Project

    opened = Project(project)
    with output.progress() as progress:
        done = pipeline.run(opened, device, progress, mode, accelerator, afresh=afresh, provision=provision)
    output.ran(done, as_json=as_json)
    raise typer.Exit(done.exit_code)


@app.command()
def show(
    variant: Annotated[str, typer.Argument(help="A variant's name or the start of its id.")],
    project: Folder = Path(),
    layers: Annotated[
        bool, typer.Option("--layers", help="Make it again, and say where it first strays from the net.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show all that is known about one variant.

    How it was made, how well it does, and what each board said about it.
    """
    from edgedeploy import pipeline
    from edgedeploy.cli import output
    from edgedeploy.project import Project

    opened = Project(project)
    known = pipeline.show(opened, variant)
    errors = None
    if layers:
        with output.progress() as progress:
            errors = pipeline.layers(opened, variant, progress)
    output.shown(known, errors, as_json=as_json)


@app.command()
def report(
    project: Folder = Path(),
    output_file: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write the page.")] = None,
    accelerator: Accelerator = None,
    as_json: Json = False,
) -> None:
    """Write the HTML page of all of it.

    One self-contained file with everything built, measured and chosen.
    """
    from edgedeploy import pipeline
    from edgedeploy.cli import output
    from edgedeploy.project import Project

    output.reported(pipeline.report(Project(project), output_file, accelerator=accelerator), as_json=as_json)


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="A ready recipe, to print its TOML.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """List the recipes that are ready, or print one to paste.

    A recipe of edgedeploy.toml may also name one: ready = "...", with formats, precisions and max_drop of its own.
    """
    from edgedeploy.cli.recipes import print_recipe, print_recipes
    from edgedeploy.plan import ready_recipe, ready_recipes

    if name is None:
        print_recipes(ready_recipes(), as_json=as_json)
    else:
        print_recipe(ready_recipe(name), as_json=as_json)
