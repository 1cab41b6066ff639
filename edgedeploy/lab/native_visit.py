"""One visit to a board that cannot run the agent: native runners and files by the shell, measured by the runners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgedeploy.board.bare import BareBoard, Wanted
from edgedeploy.board.runners import Runner
from edgedeploy.lab.visit import Measurement, Visit, unmeasured
from edgedeploy.profiling.native import profile_natively
from edgedeploy.progress import Progress
from edgedeploy.project import Project
from edgedeploy.records import CPU, Device, DeviceProfile, Format, Variant


def native_visit(
    project: Project,
    device: Device,
    board: BareBoard,
    variants: Sequence[Variant],
    runners: Mapping[Format, Runner],
    progress: Progress,
    *,
    measure: Measurement | None,
    dry_run: bool,
) -> Visit:
    """Push the variants that a native runner takes, with it, then measure those not yet measured by it.

    Raises TransportError, BoardError or LeaseError. Every report is kept as soon as all are judged, also those of one
    runner where the other one is to blame for the error.
    """
    kind = project.profile(device)
    runnable = [variant for variant in variants if kind.can_run(variant.target)]
    left_out = {variant.name: why for variant in runnable if (why := _unfit(variant, kind, runners, measure))}
    taken = [variant for variant in runnable if variant.name not in left_out]
    latest = project.latest_reports(device, measure.accelerator if measure else CPU)
    wanted = unmeasured(taken, latest, measure, lambda variant: runners[variant.target.format].id) if measure else []
    progress.step(f"push to {device.name}")
    pushed = board.push(
        [*_files(project, taken), *_programs(project, {variant.target.format for variant in taken}, runners)],
        progress=lambda sent, total: progress.sent(device.name, sent, total),
        dry_run=dry_run,
    )
    if wanted and measure:
        for report in profile_natively(
            board, device, kind, wanted, runners, mode=measure.mode, threads=measure.threads, step=progress.step
        ):
            project.store.save_report(report)
            latest[report.variant_id] = report
    reports = tuple(latest[variant.id] for variant in taken if variant.id in latest)
    names, measured = (tuple(variant.name for variant in some) for some in (taken, wanted))
    return Visit(device.name, names, pushed, reports, measured, tuple(left_out.items()))


def _unfit(variant: Variant, kind: DeviceProfile, runners: Mapping[Format, Runner], measure: Measurement | None) -> str:
    """Why a variant that the profile can run is not for the runners, or ""."""
    if measure and measure.accelerator != CPU:
        return f"native runners measure on the CPU alone, not on {measure.accelerator}"
    if variant.target.format not in runners:
        return (
            f"no native runner for {variant.target.format} files on {kind.arch} was added (`edgedeploy runtimes add`)"
        )
    return ""


def _files(project: Project, variants: Sequence[Variant]) -> list[Wanted]:
    """The files as they are: there is nothing on the board that could rebuild packed ones."""
    artifacts = {variant.artifact.sha256: variant.artifact for variant in variants}
    return [
        Wanted(sha256, project.store.path(artifact), f"objects/sha256/{sha256}")
        for sha256, artifact in artifacts.items()
    ]


def _programs(project: Project, formats: set[Format], runners: Mapping[Format, Runner]) -> list[Wanted]:
    return [
        Wanted(sha256, project.runners.path(runner, name), f"runtimes/{runner.id}/{name}", executable=True)
        for file_format, runner in runners.items()
        if file_format in formats
        for name, sha256 in runner.files.items()
    ]
