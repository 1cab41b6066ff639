"""Does several things at the same time, as two users would who know nothing of each other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def at_once(*work: Callable[[], object]) -> None:
    """Do each in a thread of its own and wait for all; what one of them raises is raised here."""
    with ThreadPoolExecutor(len(work)) as pool:
        for each in [pool.submit(one) for one in work]:
            each.result()
