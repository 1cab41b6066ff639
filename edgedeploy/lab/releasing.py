"""What is done about releases on one board of a project, and kept of it in the project's store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TypeVar

from edgedeploy import deploy
from edgedeploy.board import Board, open_board
from edgedeploy.deploy import Activated, Collected, Enrolled, SigningKey, Wanted
from edgedeploy.errors import BoardError, NoPython, PlanError
from edgedeploy.lab.parallel import Visited, run_over
from edgedeploy.profiling import child_timeout_s, output_tolerance, switched_on
from edgedeploy.progress import Progress
from edgedeploy.project import Project
from edgedeploy.records import BoardReleases, DeploySettings, Device, Outcome, Variant, Verdict

T = TypeVar("T")

# Why a phone that nobody named is left alone.
NOT_DEPLOYED_TO = "not deployed to: there the app owns its model"
NOTHING_COLLECTS = (
    "garbage is collected by a Python, and there is none: `edgedeploy provision` brings one, or remove its root by hand"
)


def deployable(project: Project, names: Sequence[str] = ()) -> list[Device]:
    """The named devices, or all but the phones. Raises PlanError for a phone that is named."""
    devices = project.devices(names)
    for device in devices if names else ():
        if device.scheme == "adb":
            raise PlanError(
                f"device {device.name!r}: phones are measured and not deployed to, for there the app owns its model; "
                "ship the file that `edgedeploy select` names with the app."
            )
    return [device for device in devices if device.scheme != "adb"]


def over_deployable(project: Project, names: Sequence[str], action: Callable[[Device], T]) -> list[Visited[T]]:
    """Do `action` on the devices that `deployable` gives; the phones among all devices are passed over."""
    done = {visited.device: visited for visited in run_over(deployable(project, names), action)}
    return [
        done.get(device.name) or Visited(device.name, None, None, NOT_DEPLOYED_TO) for device in project.devices(names)
    ]


def wanted(
    project: Project, device: Device, variant: Variant, settings: DeploySettings, accelerator: str, *, rehearsal: bool
) -> Wanted:
    """What is to become active on a device. Raises BoardError for a variant that does not fit it, PlanError."""
    kind = project.profile(device)
    if why := kind.why_not(variant.target) or kind.unfit(variant.target, accelerator):
        raise BoardError(f"{device.name}: {variant.name} does not fit this board: {why}.")
    most = kind.limits.max_file_bytes
    if most is not None and variant.artifact.size_bytes > most:
        raise BoardError(
            f"{device.name}: {variant.name} does not fit this board: it has {variant.artifact.size_bytes} bytes, and "
            f"{most} is the limit of {kind.name}."
        )
    reports = project.latest_reports(device, accelerator)
    report = reports.get(variant.id)
    if report is not None and (report.outcome is not Outcome.OK or report.verdict is Verdict.INVALID):
        what = report.detail or "; ".join(report.reasons)
        ended = report.outcome if report.outcome is not Outcome.OK else report.verdict
        raise BoardError(
            f"{device.name}: {variant.name} was measured here and is not fit: {ended}: {what}; measure it again with "
            f"`edgedeploy profile --device {device.name} --variant {variant.name} --afresh`."
        )
    p50_ms = {
        variant_id: said.metrics.latency.p50_ms
        for variant_id, said in reports.items()
        if said.metrics.latency is not None and said.conditions.emulated == device.emulated
    }
    switch = kind.accelerator(accelerator, variant.target)
    run = deploy.Run(
        threads=project.plan.threads,
        accelerator=accelerator,
        switch=switched_on(switch) or None,
        tolerance=output_tolerance(variant.target.precision, switch),
        child_timeout_s=child_timeout_s([switch]),
        p50_ms=p50_ms.get(variant.id),
    )
    artifacts = (variant.artifact, variant.packed, variant.contract, variant.probe)
    files = {artifact.sha256: project.store.path(artifact) for artifact in artifacts}
    return Wanted(variant, files, run, settings, rehearsal, p50_ms)


def release(
    project: Project, device: Device, what: Wanted, key: SigningKey, progress: Progress, *, afresh: bool
) -> Activated:
    """Make it the board's active release. Raises BoardError where it was rolled back, and the errors of a visit."""
    known = project.store.releases(device.name)
    with _opened(project, device) as board:
        done = deploy.activate(board, device, what, key, known=known, afresh=afresh, progress=progress)
    return _kept(project, done)


def roll_back(project: Project, device: Device) -> Activated:
    """Make the release before the active one again. Raises BoardError where that failed, and the errors of a visit."""
    with _opened(project, device) as board:
        done = deploy.back(board, device)
    return _kept(project, done)


def status(project: Project, device: Device) -> BoardReleases:
    """What the board has now. Raises the errors of a visit."""
    with _opened(project, device) as board:
        seen = deploy.look(board, device)
    project.store.save_releases(seen)
    return seen


def collect(project: Project, names: Sequence[str], *, dry_run: bool, grace_s: float) -> list[Visited[Collected]]:
    """Clear away what the named boards, or all, do not need: phones too, for what was measured there lies on them.

    A phone without the Python that this takes is passed over where nobody named it.
    """

    def action(device: Device) -> Collected:
        with _opened(project, device) as board:
            return deploy.collect(board, device, dry_run=dry_run, grace_s=grace_s)

    devices = project.devices(names)
    phones = set() if names else {device.name for device in devices if device.scheme == "adb"}
    return [
        replace(visited, error=None, passed_over=NOTHING_COLLECTS)
        if visited.device in phones and isinstance(visited.error, NoPython)
        else visited
        for visited in run_over(devices, action)
    ]


def enrol(project: Project, device: Device, key: SigningKey, replaces: str | None) -> Enrolled:
    """Have the board trust a key. Raises BoardError where it trusts another, and the errors of a visit."""
    with _opened(project, device) as board:
        done = deploy.enrol(board, device, key, replaces)
    project.store.save_releases(done.state)
    return done


def rotate(project: Project, device: Device, old: SigningKey, new: SigningKey) -> Enrolled:
    """Have the board trust `new` in the place of `old`. Raises BoardError, and the errors of a visit."""
    with _opened(project, device) as board:
        done = deploy.rotate(board, device, old, new)
    project.store.save_releases(done.state)
    return done


def _opened(project: Project, device: Device) -> AbstractContextManager[Board]:
    return open_board(device, project.profile(device), project.folder)


def _kept(project: Project, done: Activated) -> Activated:
    project.store.save_releases(done.state)
    if done.rolled_back:
        raise BoardError(f"{done.device}: {done.variant}: {done.rolled_back}.")
    return done
