"""The road from a PyTorch net to the best variant for each board, one function per station."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgedeploy import build as building
from edgedeploy.board import BoardFacts
from edgedeploy.board.bare import open_any_board
from edgedeploy.board.provision import Provisioned
from edgedeploy.build import Built, Failure, again
from edgedeploy.compress import FineTune, training
from edgedeploy.deploy import Activated, SigningKey, Wanted, load_key, settled
from edgedeploy.errors import EdgeDeployError, ExitCode, NothingQualifies, PlanError
from edgedeploy.export.layer_errors import LayerErrors
from edgedeploy.lab import Visited, releasing, run_over, worst_exit_code
from edgedeploy.lab.provisioning import provision_fleet
from edgedeploy.lab.visit import Visit, measurement, visit
from edgedeploy.progress import SILENT, Progress
from edgedeploy.project import Project
from edgedeploy.records import Choice, Device, Report, Variant
from edgedeploy.report import write_report
from edgedeploy.selection import Candidate, choose
from edgedeploy.task import load_task

REPORT_FILE = "report.html"


@dataclass(frozen=True, slots=True)
class Run:
    """What a whole run did, and where its report lies. `provisioned` is empty where nothing was to be brought."""

    built: Built
    provisioned: tuple[Visited[Provisioned], ...]
    visits: tuple[Visited[Visit], ...]
    choices: tuple[Choice, ...]
    report: Path

    @property
    def exit_code(self) -> ExitCode:
        """The worst that happened: what a retry cannot mend, then what it may, then a device without a winner."""
        codes = {worst_exit_code(self.provisioned), worst_exit_code(self.visits)}
        if self.built.failures:
            codes.add(ExitCode.FAILED)
        if not all(choice.winner for choice in self.choices):
            codes.add(ExitCode.NOTHING_QUALIFIES)
        return max(codes)


def run(
    project: Project,
    devices: Sequence[str] = (),
    progress: Progress = SILENT,
    mode: str | None = None,
    accelerator: str | None = None,
    *,
    afresh: bool = False,
    provision: bool = False,
) -> Run:
    """All stations, each doing only what is not done yet. A board that fails does not stop the others.

    With `provision` boards are brought the runtimes that they lack before anything is pushed; one that cannot be is
    not visited after.
    """
    boards = project.devices(devices)
    for device in boards:
        project.accelerator(device, accelerator)  # a mistake is better told before the training than after
    if project.plan.train is not None:
        train(project, progress)
    built = build(project, progress=progress)
    if not built.variants:
        raise EdgeDeployError(f"nothing could be built: {built.failures[0].variant}: {built.failures[0].reason}")
    names = [device.name for device in boards]
    provisioned = provision_fleet(project, names, progress=progress) if provision else []
    unfit = {visited.device for visited in provisioned if visited.error is not None}
    visits: list[Visited[Visit]] = []
    if fit := [name for name in names if name not in unfit]:
        visits = profile(project, fit, progress=progress, mode=mode, accelerator=accelerator, afresh=afresh)
    choices = select(project, names, accelerator)
    page = report(project, devices=names, choices=choices, failures=built.failures, accelerator=accelerator)
    return Run(built, tuple(provisioned), tuple(visits), tuple(choices), page)


def train(project: Project, progress: Progress = SILENT, *, afresh: bool = False) -> bool:
    """Make the source weights as the plan's [train] says, unless they are there. Returns whether it trained."""
    plan = project.plan
    if plan.source is not None:
        raise PlanError(f"{plan.source}: a source file brings its own weights, so there is nothing to train.")
    if not isinstance(plan.train, FineTune) or plan.weights is None:
        raise PlanError(f"{project.folder / 'edgedeploy.toml'}: train: missing; add a [train] table with `epochs`.")
    if plan.weights.exists() and not afresh:
        return False
    progress.step("train the source net")
    state = training.train_from_scratch(load_task(plan.task_file, None), plan.train, progress.step)
    training.save_weights(state, plan.weights)
    return True


def build(project: Project, recipes: Sequence[str] = (), progress: Progress = SILENT, jobs: int | None = None) -> Built:
    """Compress and export every variant of the plan, or of the named recipes, that is not in the store.

    `jobs` processes share the work; None stands for as many as cores and free memory allow.
    """
    built = building.build(project.plan, project.store, progress, project.recipes(recipes), jobs)
    return replace(built, no_board=tuple(project.without_board(built.variants)))


def push(
    project: Project,
    devices: Sequence[str] = (),
    variants: Sequence[str] = (),
    progress: Progress = SILENT,
    *,
    dry_run: bool = False,
    jobs: int | None = None,
) -> list[Visited[Visit]]:
    """Send variants to boards, to `jobs` at a time; what is there already is not sent again."""
    chosen = project.variants(variants)

    def action(device: Device) -> Visit:
        return visit(project, device, chosen, progress, dry_run=dry_run)

    return run_over(project.devices(devices), action, workers=jobs)


def profile(
    project: Project,
    devices: Sequence[str] = (),
    variants: Sequence[str] = (),
    progress: Progress = SILENT,
    mode: str | None = None,
    accelerator: str | None = None,
    *,
    afresh: bool = False,
    jobs: int | None = None,
) -> list[Visited[Visit]]:
    """Push what the boards lack and measure what was not yet measured in this way; `afresh` measures all again.

    Each board is measured on `accelerator`, or where that is None on the one that fleet or plan name for it.
    """
    chosen = project.variants(variants)
    boards = project.devices(devices)
    wanted = {board.name: measurement(project, board, mode, accelerator, afresh=afresh) for board in boards}

    def action(device: Device) -> Visit:
        return visit(project, device, chosen, progress, measure=wanted[device.name])

    return run_over(boards, action, workers=jobs)


def deploy(
    project: Project,
    devices: Sequence[str],
    variant: str | None = None,
    key: str | None = None,
    accelerator: str | None = None,
    progress: Progress = SILENT,
    *,
    afresh: bool = False,
    ask: Callable[[str], str] | None = None,
) -> list[Visited[Activated]]:
    """Make on each device the variant active that `select` chooses for it, or the one given.

    `ask` is called for the passphrase of a key that has one. Raises PlanError for a phone that is named and for a key
    that is not there, and EdgeDeployError where nothing qualifies.
    """
    given = None if variant is None else project.variants([variant])[0]
    boards = releasing.deployable(project, devices)
    names = [device.name for device in boards]
    choices = {} if given or not names else {choice.device: choice for choice in select(project, names, accelerator)}
    variants = {one.id: one for one in project.variants()}
    wanted: dict[str, tuple[Wanted, SigningKey]] = {}
    keys: dict[str | None, SigningKey] = {}
    for device in boards:
        chosen, rehearsal = given, False
        if chosen is None:
            choice = choices[device.name]
            if choice.winner_id is None:
                raise NothingQualifies(
                    f"{device.name}: no variant qualifies; `edgedeploy select --device {device.name}` says why."
                )
            chosen, rehearsal = variants[choice.winner_id], choice.rehearsal
        settings = settled(device.deploy, project.plan.deploy)
        on = project.accelerator(device, accelerator)
        what = releasing.wanted(project, device, chosen, settings, on, rehearsal=rehearsal)
        named = key or settings.key
        if named not in keys:
            keys[named] = load_key(named, ask)  # once, for it may ask the user
        wanted[device.name] = (what, keys[named])

    def action(device: Device) -> Activated:
        return releasing.release(project, device, *wanted[device.name], progress, afresh=afresh)

    return releasing.over_deployable(project, devices, action)


def select(project: Project, devices: Sequence[str] = (), accelerator: str | None = None) -> list[Choice]:
    """Choose for each device from what its board said last of `accelerator`, by default the one it is measured on."""
    variants = project.variants()
    choices = []
    for device in project.devices(devices):
        latest = project.latest_reports(device, accelerator)
        candidates = [Candidate(variant, latest.get(variant.id)) for variant in variants]
        on = project.accelerator(device, accelerator)
        choices.append(choose(device, project.profile(device), project.plan.goal, candidates, on))
    return choices


def report(
    project: Project,
    path: Path | None = None,
    *,
    devices: Sequence[str] = (),
    choices: Sequence[Choice] | None = None,
    failures: Sequence[Failure] = (),
    accelerator: str | None = None,
) -> Path:
    """Write the HTML page of everything built, measured and chosen; returns its path. Chooses where not given."""
    path = path or project.folder / REPORT_FILE
    boards = project.devices(devices)
    write_report(
        path,
        title=project.folder.resolve().name,
        variants=project.variants(),
        reports=[report for device in boards for report in project.latest_reports(device, accelerator).values()],
        choices=select(project, devices, accelerator) if choices is None else choices,
        failures=[(failure.variant, failure.reason) for failure in failures],
        devices=boards,
    )
    return path


@dataclass(frozen=True, slots=True)
class Shown:
    """One variant, the contract that travels with its file, and the latest that each device said about it.

    `storage_only` says for which devices its precision saves bytes and no time, and why.
    """

    variant: Variant
    contract: dict[str, Any]
    reports: tuple[Report, ...]
    storage_only: dict[str, str]


def show(project: Project, name: str) -> Shown:
    """All that is known about one variant."""
    (variant,) = project.variants([name])
    contract = json.loads(project.store.path(variant.contract).read_text("utf-8"))
    latest = (project.latest_reports(device).get(variant.id) for device in project.fleet.devices)
    why = {device.name: project.profile(device).storage_only(variant.target) for device in project.fleet.devices}
    return Shown(
        variant,
        contract,
        tuple(report for report in latest if report is not None),
        {device: reason for device, reason in why.items() if reason},
    )


def layers(project: Project, name: str, progress: Progress = SILENT) -> LayerErrors:
    """Where one variant's file first strays from its net: see `build.again.layer_errors`."""
    (variant,) = project.variants([name])
    return again.layer_errors(project.plan, project.store, variant, progress.step)


def probe(project: Project, devices: Sequence[str] = (), *, jobs: int | None = None) -> list[Visited[BoardFacts]]:
    """Ask boards what they are, `jobs` at a time; a phone need not have a Python."""

    def action(device: Device) -> BoardFacts:
        with open_any_board(device, project.profile(device), project.folder) as board:
            return board.facts

    return run_over(project.devices(devices), action, workers=jobs)
