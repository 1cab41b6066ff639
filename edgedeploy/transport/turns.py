"""Lets a visit that only waits for a board to answer make room for another one."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar

# A board that takes longer to let us in is probably dead, and is not to keep others waiting.
SLOW_ANSWER_S = 1.0

_give_way: ContextVar[Callable[[], None] | None] = ContextVar("give_way", default=None)


def give_way_by(begin_another: Callable[[], None] | None) -> None:
    """From now on `begin_another` is called, once, when this thread's transport has waited long for its board."""
    _give_way.set(begin_another)


def give_way() -> None:
    """Let another visit begin beside this one; nothing happens where there is none, or it was let already."""
    begin_another = _give_way.get()
    if begin_another is not None:
        _give_way.set(None)
        begin_another()


def give_way_if_slow(since: float) -> None:
    """Let another visit begin where the board has been waited for since a moment (monotonic) that is long past."""
    if time.monotonic() - since > SLOW_ANSWER_S:
        give_way()


def gave_way() -> bool:
    """Whether this thread has given its place away."""
    return _give_way.get() is None
