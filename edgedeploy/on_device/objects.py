"""The board's immutable files, each named by its SHA-256."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import Any

from .documents import sync_folder
from .lock import Locked, board_lock

_CHUNK_BYTES = 1 << 20


class Refused(Exception):
    """A file is not what it is said to be."""


def object_path(root: str, sha256: str) -> str:
    """Return where the object lies, or would."""
    return os.path.join(root, "objects", "sha256", sha256)


def verify(path: str, sha256: str, size_bytes: int | None = None) -> None:
    """Check that `path` is a plain file of this size and digest. Raises Refused, FileNotFoundError, OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        if os.path.islink(path):
            raise Refused("it is a symbolic link") from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Refused("it is no plain file")
        if size_bytes is not None and status.st_size != size_bytes:
            raise Refused(f"it has {status.st_size} bytes instead of {size_bytes}")
        digest = hashlib.sha256()
        for chunk in iter(lambda: os.read(descriptor, _CHUNK_BYTES), b""):
            digest.update(chunk)
    finally:
        os.close(descriptor)
    if digest.hexdigest() != sha256:
        raise Refused(f"its SHA-256 is {digest.hexdigest()}")


def inventory(operation: dict[str, Any], root: str) -> dict[str, Any]:
    """Say which of the objects are here and whole; a corrupt one is removed, so that it will be sent again."""
    states = {sha256: _state(root, sha256, size) for sha256, size in sorted(operation["objects"].items())}
    present = [sha256 for sha256, state in states.items() if state == "present"]
    corrupt = [sha256 for sha256, state in states.items() if state == "corrupt"]
    if corrupt:
        try:
            with board_lock(root):
                for sha256 in corrupt:
                    _remove(object_path(root, sha256))
        except Locked:
            pass  # absent from the answer all the same; admitting a good copy replaces it
    return dict(space(root), op="inventory", present=present)


def admit(operation: dict[str, Any], root: str) -> dict[str, Any]:
    """Move uploaded files among the objects, each hashed on this board first. Raises Locked, OSError."""
    admitted: list[str] = []
    refused: list[dict[str, str]] = []
    folder = os.path.join(root, "objects", "sha256")
    os.makedirs(folder, exist_ok=True)
    with board_lock(root):
        for entry in operation["objects"]:
            sha256 = entry["sha256"]
            temporary = os.path.join(root, entry["temporary"])
            try:
                verify(temporary, sha256, entry["size_bytes"])
            except FileNotFoundError:
                refused.append({"sha256": sha256, "reason": f"{entry['temporary']} is not there"})
                continue
            except Refused as error:
                _remove(temporary)
                refused.append({"sha256": sha256, "reason": f"{entry['temporary']}: {error}"})
                continue
            _sync(temporary)
            os.chmod(temporary, 0o444)
            os.replace(temporary, object_path(root, sha256))
            admitted.append(sha256)
        sync_folder(folder)
    return {"op": "admit", "admitted": admitted, "refused": refused}


def space(root: str) -> dict[str, int]:
    """Return the free and total bytes of the file system that holds `root`, or will."""
    while not os.path.exists(root):
        root = os.path.dirname(root)
    status = os.statvfs(root)
    return {"free_bytes": status.f_bavail * status.f_frsize, "total_bytes": status.f_blocks * status.f_frsize}


def _state(root: str, sha256: str, size_bytes: int) -> str:
    try:
        verify(object_path(root, sha256), sha256, size_bytes)
    except FileNotFoundError:
        return "absent"
    except Refused:
        return "corrupt"
    return "present"


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        return  # nobody of ours makes folders there
    os.unlink(path)
