"""Visits side by side share one cache, and Ctrl-C is felt by the one that waits for it."""

from __future__ import annotations

import threading
from pathlib import Path

from edgedeploy.board.host_tools import alone
from edgedeploy.transport.interruption import interrupt_on


def test_one_thread_at_a_time_has_the_cache(tmp_path: Path) -> None:
    order: list[str] = []

    def wait() -> None:
        with alone(tmp_path):
            order.append("second")

    second = threading.Thread(target=wait)
    with alone(tmp_path):
        second.start()
        second.join(0.5)
        assert second.is_alive()
        order.append("first")
    second.join(10)
    assert order == ["first", "second"]


def test_waiting_for_the_cache_is_given_up(tmp_path: Path) -> None:
    """Ctrl-C ends a visit that waits for another one's downloads, though these go on."""
    stop, gave_up = threading.Event(), threading.Event()

    def wait() -> None:
        interrupt_on(stop)
        try:
            with alone(tmp_path):
                pass
        except KeyboardInterrupt:
            gave_up.set()

    waiting = threading.Thread(target=wait)
    with alone(tmp_path):
        waiting.start()
        stop.set()
        assert gave_up.wait(10)
    waiting.join(10)
