"""Provisions the boards of a fleet side by side."""

from __future__ import annotations

from collections.abc import Sequence

from edgedeploy.board.provision import Provisioned, provision
from edgedeploy.board.runtime_choice import MODULES
from edgedeploy.errors import PlanError
from edgedeploy.lab.parallel import Visited, run_over
from edgedeploy.progress import SILENT, Progress
from edgedeploy.project import Project
from edgedeploy.records import Device


def provision_fleet(
    project: Project,
    devices: Sequence[str] = (),
    runtimes: Sequence[str] = (),
    progress: Progress = SILENT,
    *,
    dry_run: bool = False,
    jobs: int | None = None,
) -> list[Visited[Provisioned]]:
    """Bring boards the runtimes of their profiles, or those named. Raises PlanError for a name that is not known."""
    for name in runtimes:
        if name not in MODULES:
            raise PlanError(f"no runtime `{name}`; there: {', '.join(MODULES)}.")

    def action(device: Device) -> Provisioned:
        return provision(
            device,
            project.profile(device),
            project.folder,
            runtimes=runtimes,
            dry_run=dry_run,
            step=progress.step,
            progress=lambda sent, total: progress.sent(device.name, sent, total),
        )

    return run_over(project.devices(devices), action, workers=jobs)
