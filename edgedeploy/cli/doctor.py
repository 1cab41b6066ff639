"""The verb `doctor`: what is missing where, and how to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgedeploy.cli.options import Devices, Folder, Jobs, Json
from edgedeploy.errors import ExitCode

if TYPE_CHECKING:
    from edgedeploy.doctor import Finding


def doctor(
    project: Folder = Path(),
    device: Devices = [],  # noqa: B006 - typer reads it, nobody writes it
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Say what is missing on this machine and on the boards, and how to mend it.

    Exit code 1 where something does not work; a warning is something that may be meant so.
    """
    from edgedeploy.doctor import Level, examine
    from edgedeploy.project import Project

    findings = examine(Project(project), device, jobs)
    _print(findings, as_json=as_json)
    if any(finding.level is Level.FAULT for finding in findings):
        raise typer.Exit(ExitCode.NOTHING_QUALIFIES)


_COLOURS = {"ok": "green", "warning": "yellow", "fault": "red"}


def _print(findings: Sequence[Finding], *, as_json: bool) -> None:
    from rich.markup import escape

    from edgedeploy.cli.console import out, print_json

    if as_json:
        print_json([asdict(finding) for finding in findings])
        return
    for where in dict.fromkeys(finding.where for finding in findings):
        out.print(f"[bold]{escape(where)}[/]")
        for finding in findings:
            if finding.where == where:
                colour = _COLOURS[finding.level]
                detail = f"  [{colour}]{finding.level:<8}[/]{escape(finding.what)}: {escape(finding.detail)}"
                out.print(detail, soft_wrap=True)
                if finding.mend:
                    out.print(f"          -> {escape(finding.mend)}", soft_wrap=True)
