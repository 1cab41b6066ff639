"""Shows on stderr what the library is at."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)


class Lines:
    """A line a step, for logs."""

    def step(self, text: str) -> None:
        """Write the step."""
        print(text, file=sys.stderr, flush=True)

    def sent(self, device: str, sent_bytes: int, total_bytes: int) -> None:
        """Write nothing: a log has no use for a bar."""


class Bars:
    """A spinner for the step, and a bar with its rate for each device that is being sent to."""

    def __init__(self) -> None:
        self._steps = Progress(SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        self._transfers = Progress(
            TextColumn("push to {task.description}", markup=False),
            BarColumn(bar_width=30),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        self._live = Live(Group(self._steps, self._transfers), console=Console(stderr=True), transient=True)
        self._step: TaskID | None = None
        self._sending: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def step(self, text: str) -> None:
        """Say the step beside a spinner, with the time it has taken."""
        if self._step is not None:
            self._steps.remove_task(self._step)
        self._step = self._steps.add_task(text, total=None)

    def sent(self, device: str, sent_bytes: int, total_bytes: int) -> None:
        """Move the device's bar."""
        if device not in self._sending:
            self._sending[device] = self._transfers.add_task(device, total=total_bytes)
        self._transfers.update(self._sending[device], completed=sent_bytes, total=total_bytes)
