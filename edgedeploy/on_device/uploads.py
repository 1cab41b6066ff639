"""What interrupted uploads left of an object is kept, so that the next one goes on where they stopped."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from typing import Any

from .failures import Refused
from .plain_files import open_plain, remove, write_all

# Nobody who still sends leaves a file alone for so long: the host gives up a silent link earlier.
_ABANDONED_S = 120.0
_MIB = 1 << 20
_MARKS = 32
_UPLOAD = re.compile(r"[0-9a-f]{16}-([0-9a-f]{64})@([0-9]{1,12})$")


def kept_path(root: str, sha256: str) -> str:
    """Return where the beginning of an object is put together; only who holds the board's lock writes there."""
    return os.path.join(root, "tmp", sha256 + ".part")


def uploads_of(root: str) -> dict[str, list[tuple[int, str]]]:
    """Return by digest the uploads that lie here, each with the place in its object where it begins, in this order."""
    folder = os.path.join(root, "tmp")
    found: dict[str, list[tuple[int, str]]] = {}
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        match = _UPLOAD.match(name)
        if match:
            found.setdefault(match.group(1), []).append((int(match.group(2)), os.path.join(folder, name)))
    return {sha256: sorted(uploads) for sha256, uploads in found.items()}


def gather(root: str, sha256: str, size_bytes: int, uploads: list[tuple[int, str]]) -> list[dict[str, Any]]:
    """Put together what `uploads` left of an object, and return digests of its beginnings, the longest last.

    Under the board's lock. An upload that may still go on is copied, never moved: its sender owns it. Whether the
    bytes are right is for the host to say. Raises OSError.
    """
    kept = kept_path(root, sha256)
    for place, path in uploads:
        have = _size(kept)
        length = min(_size(path), size_bytes - place)
        try:
            abandoned = time.time() - os.lstat(path).st_mtime > _ABANDONED_S
        except FileNotFoundError:
            continue  # its sender has taken it away
        if place <= have < place + length:
            if abandoned and place == 0:
                os.replace(path, kept)
                continue
            _append(path, have - place, place + length - have, kept, have)
        if abandoned:
            remove(path)
    return _marks(kept, size_bytes) if _size(kept) else []


def assemble(root: str, entry: dict[str, Any]) -> str:
    """Return the path of the file that should be the object of `entry`, put together where it lies in parts.

    Raises Refused, FileNotFoundError, OSError.
    """
    name, kept, skip = entry.get("temporary"), entry.get("kept", 0), entry.get("skip")
    temporary = os.path.join(root, name) if name else None
    if not kept and temporary is None:
        raise Refused("nothing was sent of it")
    if not kept and skip is None and temporary is not None:
        return temporary
    path = kept_path(root, entry["sha256"])
    if _size(path) < kept:
        raise Refused("what was kept of it is gone")
    rest = entry["size_bytes"] - kept
    if temporary is None:
        os.truncate(path, kept)
    else:
        _append(temporary, skip or 0, rest, path, kept)
    return path


def _append(source: str, start: int, length: int, destination: str, end: int) -> None:
    """Make `destination` its own first `end` bytes and `length` bytes of the plain file `source` from `start` on.

    Raises Refused where `source` is no plain file, FileNotFoundError, OSError.
    """
    reader = open_plain(source)
    try:
        writer = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            os.ftruncate(writer, end)
            os.lseek(writer, end, os.SEEK_SET)
            os.lseek(reader, start, os.SEEK_SET)
            while length:
                chunk = os.read(reader, min(_MIB, length))
                if not chunk:
                    break
                length -= len(chunk)
                write_all(writer, chunk)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _size(path: str) -> int:
    """Return the size of a plain file, 0 for anything else."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _marks(path: str, size_bytes: int) -> list[dict[str, Any]]:
    """Return digests of beginnings, so that a tail lost with the power does not cost all that came before it."""
    step = max(1, -(-size_bytes // (_MARKS * _MIB))) * _MIB
    digest, done, marks = hashlib.sha256(), 0, []
    with open(path, "rb") as file:
        while True:
            chunk = file.read(min(_MIB, size_bytes - done))
            digest.update(chunk)
            done += len(chunk)
            ended = len(chunk) < _MIB or done == size_bytes
            if ended or done % step == 0:
                marks.append({"bytes": done, "sha256": digest.hexdigest()})
            if ended:
                return marks
