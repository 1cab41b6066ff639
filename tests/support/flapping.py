"""A link of a lab's board that goes and comes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tools.lab import VirtualBoard


@contextmanager
def flapping(board: VirtualBoard) -> Iterator[threading.Thread]:
    """The thread that, from its start to the end of the block, cuts the board's link every second for a while."""
    over = threading.Event()

    def flap() -> None:
        while not over.wait(1.0):
            board.cut()
            over.wait(0.4)
            board.link.plug()

    thread = threading.Thread(target=flap)
    try:
        yield thread
    finally:
        over.set()
        if thread.is_alive():
            thread.join()
