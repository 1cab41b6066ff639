"""Which files a piece of code reads, learnt from the interpreter's own audit events."""

from __future__ import annotations

import importlib.metadata
import linecache
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

# Source text for tracebacks, and lists of what is installed, which libraries ask for once a process.
_LOOKUPS = (linecache.__file__, importlib.metadata.__file__)
_SYSTEM = tuple(Path(root) for root in ("/proc", "/sys", "/dev", "/etc", "/run"))

_hooked = False
_watch: Watch | None = None


@dataclass
class Watch:
    """Absolute paths of what was opened for reading and of the folders that were listed.

    What an installed library opens while it is imported does not count: the second import would not open it.
    Neither does source text that is fetched for a traceback: it is that of whoever called, not of the task. Nor does
    what installed distributions say of themselves: a library that looks for its plugins asks all of them, and once.
    """

    folder: str
    opened: set[Path] = field(default_factory=set)
    listed: set[Path] = field(default_factory=set)
    bystanders: frozenset[int | None] = frozenset()

    def note(self, event: str, args: tuple[Any, ...]) -> None:
        """Take one audit event; what is opened only to be written is no input."""
        if threading.get_ident() in self.bystanders or not isinstance(args[0], (str, bytes, os.PathLike)):
            return
        if self._is_somebody_elses():
            return
        path = Path(os.fsdecode(args[0])).absolute()
        if any(path.is_relative_to(root) for root in _SYSTEM):
            return
        if event != "open":
            self.listed.add(path)
        elif not (args[2] & (os.O_WRONLY | os.O_CREAT)):
            self.opened.add(path)

    def _is_somebody_elses(self) -> bool:
        frame: FrameType | None = sys._getframe(3)  # past this method, note and the hook
        while frame is not None:
            file = frame.f_code.co_filename
            if file.startswith(self.folder):
                return False
            if file.startswith("<frozen importlib") or file in _LOOKUPS:
                return True
            frame = frame.f_back
        return False


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _watch is not None and event in ("open", "os.listdir", "os.scandir"):
        _watch.note(event, args)


@contextmanager
def watch_files(folder: Path) -> Iterator[Watch]:
    """Watch this thread and those it starts, running code from under `folder`, until the block ends.

    Not reentrant.
    """
    global _hooked, _watch
    if not _hooked:
        sys.addaudithook(_hook)  # cannot be taken away again, hence one for all
        _hooked = True
    others = frozenset(thread.ident for thread in threading.enumerate()) - {threading.get_ident()}
    _watch = watch = Watch(f"{folder}{os.sep}", bystanders=others)
    try:
        yield watch
    finally:
        _watch = None
