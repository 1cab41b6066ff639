"""A folder for the temporary files of the one operation that holds the board."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX = "job-"


def left_workspaces(root: str) -> list[str]:
    """Return such folders as lie here: of the operation that holds the board, or of one that was killed."""
    return glob.glob(os.path.join(glob.escape(root), "tmp", _PREFIX + "*"))


@contextlib.contextmanager
def workspace(root: str) -> Iterator[str]:
    """Make such a folder for the block; the caller holds the board's lock. Raises OSError."""
    folder = os.path.join(root, "tmp")
    os.makedirs(folder, exist_ok=True)
    # Only who holds the lock has such a folder: those that lie here are of agents that were killed.
    for left in left_workspaces(root):
        shutil.rmtree(left, ignore_errors=True)
    made = tempfile.mkdtemp(prefix=_PREFIX, dir=folder)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
