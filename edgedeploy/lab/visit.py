"""One visit to one board: send what it lacks, and measure what is asked for, over one connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgedeploy.board import Board, PushResult, lying, push
from edgedeploy.board.bare import open_any_board
from edgedeploy.board.bundle import agent_bundle
from edgedeploy.profiling import MODES, Mode, profile
from edgedeploy.progress import Progress
from edgedeploy.project import Project
from edgedeploy.records import CPU, Device, Report, Variant


@dataclass(frozen=True, slots=True)
class Visit:
    """What a visit did.

    `variants` names those the board's profile can run, on the accelerator asked for where they were to be measured;
    `left_out` those that this accelerator does not take, each with the reason; `measured` those measured now.
    """

    device: str
    variants: tuple[str, ...]
    push: PushResult
    reports: tuple[Report, ...]
    measured: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Measurement:
    """What to measure on a visit; `afresh` measures again what was already measured in the same way."""

    mode: Mode
    threads: int
    accelerator: str = CPU
    afresh: bool = False


def measurement(
    project: Project, device: Device, mode: str | None = None, accelerator: str | None = None, *, afresh: bool = False
) -> Measurement:
    """The measurement that plan and fleet ask for, in another mode or on another accelerator where one is given.

    Raises PlanError where the device's profile does not list the accelerator.
    """
    plan = project.plan
    return Measurement(MODES[mode or plan.mode], plan.threads, project.accelerator(device, accelerator), afresh)


def visit(
    project: Project,
    device: Device,
    variants: Sequence[Variant],
    progress: Progress,
    *,
    measure: Measurement | None = None,
    dry_run: bool = False,
) -> Visit:
    """Push the variants that the board's profile can run, then measure those not yet measured so.

    A board without a Python is measured by native runners where the project has some for it. Raises TransportError,
    BoardError, AgentError or LeaseError. Every report is kept as soon as it is judged.
    """
    kind = project.profile(device)
    with open_any_board(device, kind, project.folder) as board:
        if isinstance(board, Board):
            return _agent_visit(project, device, board, variants, progress, measure=measure, dry_run=dry_run)
        # The one place where native runners are chosen over the agent: nothing else can run there.
        runners = project.runners.fitting(kind.arch)
        if not runners:
            raise board.no_python
        from edgedeploy.lab.native_visit import native_visit

        return native_visit(project, device, board, variants, runners, progress, measure=measure, dry_run=dry_run)


def _agent_visit(
    project: Project,
    device: Device,
    board: Board,
    variants: Sequence[Variant],
    progress: Progress,
    *,
    measure: Measurement | None,
    dry_run: bool,
) -> Visit:
    kind = project.profile(device)
    accelerator = measure.accelerator if measure else CPU
    runnable = [variant for variant in variants if kind.can_run(variant.target)]
    unfit = {variant.name: why for variant in runnable if (why := kind.unfit(variant.target, accelerator))}
    runnable = [variant for variant in runnable if variant.name not in unfit]
    names = tuple(variant.name for variant in runnable)
    latest = project.latest_reports(device, accelerator)
    wanted = unmeasured(runnable, latest, measure) if measure else []
    progress.step(f"push to {device.name}")
    artifacts = {
        artifact.sha256: project.store.path(artifact)
        for variant in runnable
        for artifact in (lying(board, variant), variant.contract, variant.probe)
    }
    pushed = push(
        board,
        artifacts,
        progress=lambda sent, total: progress.sent(device.name, sent, total),
        dry_run=dry_run,
    )
    if wanted and measure:
        on = "" if accelerator == CPU else f", {accelerator}"
        progress.step(f"profile {len(wanted)} variants on {device.name} ({measure.mode.name}{on})")
        for report in profile(
            board, device, kind, wanted, mode=measure.mode, threads=measure.threads, accelerator=accelerator
        ):
            project.store.save_report(report)
            latest[report.variant_id] = report
    reports = tuple(latest[variant.id] for variant in runnable if variant.id in latest)
    measured = tuple(variant.name for variant in wanted)
    return Visit(device.name, names, pushed, reports, measured, tuple(unfit.items()))


def unmeasured(
    variants: Sequence[Variant],
    latest: Mapping[str, Report],
    measure: Measurement,
    agent_of: Callable[[Variant], str] = lambda _: agent_bundle()[1],
) -> list[Variant]:
    """The variants that no report of this very measurement is among `latest` for, all of them where asked afresh.

    `agent_of` tells by what a variant is to be measured, as a digest.
    """
    if measure.afresh:
        return list(variants)

    def is_same(variant: Variant, report: Report | None) -> bool:
        return (
            report is not None
            and report.agent_sha256 == agent_of(variant)
            and (report.conditions.mode, report.conditions.threads) == (measure.mode.name, measure.threads)
            and report.conditions.accelerator == measure.accelerator
        )

    return [variant for variant in variants if not is_same(variant, latest.get(variant.id))]
