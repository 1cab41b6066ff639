"""One agent at a time changes a board's objects or measures on it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Locked(Exception):
    """Another process holds the board; the message says which and since when."""


@contextlib.contextmanager
def board_lock(root: str) -> Iterator[None]:
    """Hold `<root>/lock` for the block. Raises Locked at once where another process holds it, OSError."""
    path = os.path.join(root, "lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(f"{_holder(os.read(descriptor, 4096))} holds {path}; try again when it is done") from None
        holder = {"pid": os.getpid(), "started_unix_ns": time.time_ns()}
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(holder).encode())
        # The kernel frees the lock when this process ends, however it ends. The file itself stays: whoever
        # unlinked it would let two processes hold two locks of one name.
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _holder(content: bytes) -> str:
    try:
        holder = json.loads(content.decode())
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(holder["started_unix_ns"] / 1e9))
        return f"process {int(holder['pid'])} (since {since})"
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        return "another process"
