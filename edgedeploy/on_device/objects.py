"""The board's immutable files, each named by its SHA-256."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from .documents import sync
from .failures import Refused
from .lock import Locked, board_lock
from .plain_files import open_plain, remove
from .uploads import assemble, gather, kept_path, uploads_of

_CHUNK_BYTES = 1 << 20


def object_path(root: str, sha256: str) -> str:
    """Return where the object lies, or would."""
    return os.path.join(root, "objects", "sha256", sha256)


def verify(path: str, sha256: str, size_bytes: int | None = None) -> None:
    """Check that `path` is a plain file of this size and digest. Raises Refused, FileNotFoundError, OSError."""
    descriptor = open_plain(path)
    try:
        found_bytes = os.fstat(descriptor).st_size
        if size_bytes is not None and found_bytes != size_bytes:
            raise Refused(f"it has {found_bytes} bytes instead of {size_bytes}")
        digest = hashlib.sha256()
        for chunk in iter(lambda: os.read(descriptor, _CHUNK_BYTES), b""):
            digest.update(chunk)
    finally:
        os.close(descriptor)
    if digest.hexdigest() != sha256:
        raise Refused(f"its SHA-256 is {digest.hexdigest()}")


def inventory(operation: dict[str, Any], root: str) -> dict[str, Any]:
    """Say which of the objects are here and whole, and how much of the others an earlier push has left.

    A corrupt one is removed, so that it will be sent again.
    """
    objects = operation["objects"]
    states = {sha256: _state(root, sha256, size) for sha256, size in sorted(objects.items())}
    present = [sha256 for sha256, state in states.items() if state == "present"]
    corrupt = [sha256 for sha256, state in states.items() if state == "corrupt"]
    uploads = uploads_of(root)
    left = [sha256 for sha256 in states.keys() - set(present) if _left(root, sha256, uploads)]
    partial = {}
    if corrupt or left:
        try:
            with board_lock(root):
                for sha256 in corrupt:
                    remove(object_path(root, sha256))
                for sha256 in sorted(left):
                    partial[sha256] = _gathered(root, sha256, objects[sha256], uploads.get(sha256, []))
        except Locked:
            pass  # absent from the answer all the same; admitting a good copy replaces it
    partial = {sha256: marks for sha256, marks in partial.items() if marks}
    return dict(space(root), op="inventory", present=present, partial=partial)


def _left(root: str, sha256: str, uploads: dict[str, list[tuple[int, str]]]) -> bool:
    return sha256 in uploads or os.path.lexists(kept_path(root, sha256))


def _gathered(root: str, sha256: str, size_bytes: int, uploads: list[tuple[int, str]]) -> list[dict[str, Any]]:
    try:
        return gather(root, sha256, size_bytes, uploads)
    except OSError:  # such as a full disk, which is not to stay so on account of leftovers
        remove(kept_path(root, sha256))
        return []


def admit(operation: dict[str, Any], root: str) -> dict[str, Any]:
    """Move uploaded files among the objects, each hashed on this board first. Raises Locked, OSError."""
    admitted: list[str] = []
    refused: list[dict[str, str]] = []
    folder = os.path.join(root, "objects", "sha256")
    os.makedirs(folder, exist_ok=True)
    with board_lock(root):
        uploads = uploads_of(root)
        for entry in operation["objects"]:
            try:
                _admit(root, entry)
            except Refused as error:
                refused.append({"sha256": entry["sha256"], "reason": str(error)})
                continue
            admitted.append(entry["sha256"])
            for _, left in uploads.get(entry["sha256"], ()):
                remove(left)
        for entry in operation["objects"]:
            if "temporary" in entry:
                remove(os.path.join(root, entry["temporary"]))
        sync(folder)
    return {"op": "admit", "admitted": admitted, "refused": refused}


def _admit(root: str, entry: dict[str, Any]) -> None:
    """Move one file among the objects. Raises Refused, OSError."""
    sha256, size_bytes = entry["sha256"], entry["size_bytes"]
    name = entry.get("temporary", "what was kept")
    try:
        path = assemble(root, entry)
        verify(path, sha256, size_bytes)
    except FileNotFoundError:
        # Another push of the same object may have gathered what this one sent, or have brought it home already.
        if _state(root, sha256, size_bytes) == "present":
            return
        raise Refused(f"{name} is not there") from None
    except Refused as error:
        if _state(root, sha256, size_bytes) == "present":
            return
        remove(kept_path(root, sha256))
        raise Refused(f"{name}: {error}") from error
    sync(path)
    os.chmod(path, 0o444)
    os.replace(path, object_path(root, sha256))
    remove(kept_path(root, sha256))


def space(root: str) -> dict[str, int]:
    """Return the free and total bytes of the file system that holds `root`, or will."""
    while not os.path.exists(root):
        root = os.path.dirname(root)
    status = os.statvfs(root)
    return {"free_bytes": status.f_bavail * status.f_frsize, "total_bytes": status.f_blocks * status.f_frsize}


def _state(root: str, sha256: str, size_bytes: int) -> str:
    try:
        os.utime(object_path(root, sha256))  # collecting garbage spares what a push has just asked for
    except OSError:
        pass
    try:
        verify(object_path(root, sha256), sha256, size_bytes)
    except FileNotFoundError:
        return "absent"
    except Refused:
        return "corrupt"
    return "present"
