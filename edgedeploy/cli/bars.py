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
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)


class Lines:
    """A line a step, for logs."""

    def __init__(self) -> None:
        self._told: tuple[str, ...] = ()

    def step(self, text: str) -> None:
        """Write the step."""
        print(text, file=sys.stderr, flush=True)

    def building(self, done: int, total: int, at: tuple[str, ...]) -> None:  # noqa: ARG002
        """Write what some process has just begun."""
        for text in at:
            if text not in self._told:
                self.step(text)
        self._told = at

    def sent(self, device: str, sent_bytes: int, total_bytes: int) -> None:
        """Write nothing: a log has no use for a bar."""


class Bars:
    """A spinner for each thing that is being done, a bar for the variants, and one for each device that is sent to."""

    def __init__(self, console: Console | None = None) -> None:
        self._steps = Progress(SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        self._variants = Progress(
            TextColumn("variants"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn()
        )
        self._transfers = Progress(
            TextColumn("push to {task.description}", markup=False),
            BarColumn(bar_width=30),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        self._live = Live(
            Group(self._steps, self._variants, self._transfers),
            console=console or Console(stderr=True),
            transient=True,
        )
        self._at: dict[str, TaskID] = {}
        self._built: TaskID | None = None
        self._sending: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        return self  # it shows with the first news: until then the terminal may be asked for a passphrase

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def step(self, text: str) -> None:
        """Say the step beside a spinner, with the time it has taken."""
        self._show((text,))

    def building(self, done: int, total: int, at: tuple[str, ...]) -> None:
        """Say beside a spinner each what the processes are at, and move the bar of the variants."""
        if self._built is None:
            self._built = self._variants.add_task("", total=total)
        self._variants.update(self._built, completed=done, total=total)
        if done == total:
            self._variants.remove_task(self._built)
            self._built = None
        self._show(at)

    def sent(self, device: str, sent_bytes: int, total_bytes: int) -> None:
        """Move the device's bar."""
        self._live.start()
        if device not in self._sending:
            self._sending[device] = self._transfers.add_task(device, total=total_bytes)
        self._transfers.update(self._sending[device], completed=sent_bytes, total=total_bytes)

    def _show(self, texts: tuple[str, ...]) -> None:
        self._live.start()
        for ended in self._at.keys() - set(texts):
            self._steps.remove_task(self._at.pop(ended))
        for text in texts:
            if text not in self._at:
                self._at[text] = self._steps.add_task(text, total=None)
