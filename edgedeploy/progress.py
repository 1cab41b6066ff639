"""How the library says what it is at, so that it never prints itself."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a caller may want to show while it waits."""

    def step(self, text: str) -> None:
        """Something began."""

    def building(self, done: int, total: int, at: tuple[str, ...]) -> None:
        """So many of so many variants are done with, and this is what each process is at."""

    def sent(self, device: str, sent_bytes: int, total_bytes: int) -> None:
        """So many of so many bytes have gone to a device."""


class Silent:
    """Shows nothing."""

    def step(self, text: str) -> None:
        """Ignore it."""

    def building(self, done: int, total: int, at: tuple[str, ...]) -> None:
        """Ignore it."""

    def sent(self, device: str, sent_bytes: int, total_bytes: int) -> None:
        """Ignore it."""


SILENT: Progress = Silent()
