"""What a signal that asks this process to end comes to: clean-up, and no process of ours that goes on without us."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(BaseException):
    """A signal asks this process to end; cleaning up is all that may still happen, and no other signal disturbs it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


class _Held:
    """How many blocks are not to be disturbed, and by which signal one was meanwhile."""

    blocks = 0
    pending = 0


def stop_by_signals() -> None:
    """From now on the first of these signals raises Stopped in the main thread, and later ones do nothing."""
    for number in _SIGNALS:
        signal.signal(number, _stop)


@contextlib.contextmanager
def running(argv: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process, in a session of its own, for the block; where it has not ended by then, its session is killed.

    `options` are those of Popen. Raises OSError where it does not start.
    """
    import subprocess  # only here: every job stops by signals, few run a program

    process = None
    try:
        # A signal between the start of a process and our knowing it would leave it to itself.
        with _undisturbed():
            process = subprocess.Popen(argv, start_new_session=True, **options)
        yield process
    finally:
        if process is not None:
            with _undisturbed(), process:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    _Held.blocks += 1
    try:
        yield
    finally:
        _Held.blocks -= 1
        if _Held.pending and not _Held.blocks:
            _stop(_Held.pending, None)


def _stop(number: int, _frame: Any) -> None:
    if _Held.blocks:
        _Held.pending = _Held.pending or number
        return
    for other in _SIGNALS:
        # Not SIG_IGN, which an application that is started while we clean up would inherit.
        signal.signal(other, _nothing)
    _Held.pending = 0
    raise Stopped(number)


def _nothing(_number: int, _frame: Any) -> None:
    pass
