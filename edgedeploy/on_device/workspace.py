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

JOB, RUNTIME = "job-", "runtime-"


def left_workspaces(root: str) -> list[str]:
    """Return such folders as lie here: of the operation that holds the board, or of one that was killed."""
    return [path for kind in (JOB, RUNTIME) for path in glob.glob(os.path.join(glob.escape(root), "tmp", kind + "*"))]


def clear_workspaces(root: str) -> None:
    """Remove what agents left that were killed: only who holds the board's lock, as the caller does, has a folder."""
    for left in left_workspaces(root):
        shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def workspace(root: str, kind: str = JOB) -> Iterator[str]:
    """Make such a folder for the block; the caller holds the board's lock. Raises OSError."""
    folder = os.path.join(root, "tmp")
    os.makedirs(folder, exist_ok=True)
    clear_workspaces(root)
    made = tempfile.mkdtemp(prefix=kind, dir=folder)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
