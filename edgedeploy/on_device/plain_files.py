"""Opens, writes and removes files that others may have replaced by something else."""

from __future__ import annotations

import os
import stat

from .failures import Refused


def open_plain(path: str) -> int:
    """Return a descriptor that reads a plain file. Raises Refused for anything else, FileNotFoundError, OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        if os.path.islink(path):
            raise Refused("it is a symbolic link") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Refused("it is no plain file")
    return descriptor


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def remove(path: str) -> None:
    """Remove a file, or nothing where there is none or a folder: nobody of ours makes folders there. Raises OSError."""
    if os.path.islink(path) or not os.path.isdir(path):
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


def remove_all(path: str) -> None:
    """Remove a file, or a folder as far as that can be done. Raises OSError for a file."""
    if os.path.isdir(path) and not os.path.islink(path):
        import shutil  # only here: every job opens files, few remove folders

        shutil.rmtree(path, ignore_errors=True)
    else:
        remove(path)
