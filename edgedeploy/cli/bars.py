"""Shows on stderr what the library is at."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TaskID, TextColumn, TransferSpeedColumn


class Lines:
    """A line a step, for logs."""

    def step(self, text: str) -> None:
        """Write the step."""
        print(text, file=sys.stderr, flush=True)

    def sent(self, device: str, sent_bytes: int, total_bytes: int) -> None:
        """Write nothing: a log has no use for a bar."""


class Bars:
    """A spinner for the step and a bar with its rate for each device that is being sent to."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._steps = Progress(SpinnerColumn(), TextColumn("{task.description}"), console=console, transient=True)
        self._steps.columns = (
            *self._steps.columns,
            BarColumn(bar_width=30),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        self._step: TaskID | None = None
        self._sending: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._steps.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._steps.stop()

    def step(self, text: str) -> None:
        """Say the step beside a spinner."""
        if self._step is None:
            self._step = self._steps.add_task(text, total=None)
        self._steps.update(self._step, description=text)

    def sent(self, device: str, sent_bytes: int, total_bytes: int) -> None:
        """Move the device's bar."""
        if device not in self._sending:
            self._sending[device] = self._steps.add_task(f"push to {device}", total=total_bytes)
        self._steps.update(self._sending[device], completed=sent_bytes, total=total_bytes)
