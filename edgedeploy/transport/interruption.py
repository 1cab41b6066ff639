"""Lets the thread that got Ctrl-C stop the others, each where it next waits for its board."""

from __future__ import annotations

from contextvars import ContextVar
from threading import Event

_stop: ContextVar[Event | None] = ContextVar("stop", default=None)


def interrupt_on(stop: Event) -> None:
    """From now on this thread's transports raise KeyboardInterrupt, once, soon after `stop` is set."""
    _stop.set(stop)


def check_interrupted() -> None:
    """Raise KeyboardInterrupt if this thread was told to stop; only once, so that it can clean up afterwards."""
    stop = _stop.get()
    if stop is not None and stop.is_set():
        _stop.set(None)
        raise KeyboardInterrupt
