"""Removes from this board what no release needs, and nothing that a push or a deploy under way is about to need."""

from __future__ import annotations

import os
import re
import stat
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from .activating import recover
from .failures import Refused
from .interpreter import own_zip
from .links import AGENT, numbers
from .lock import board_lock
from .manifests import file_of, objects_of
from .plain_files import remove_all
from .releases import manifest_of
from .runtime_bundles import runtimes_in_use
from .workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_AGENT = re.compile(r"[0-9a-f]{64}\.pyz\Z")
# A job or an agent of another host may have come just now, for it takes no lock to send one.
_LEAST_UPLOAD_S = 3600.0


def collect(operation: dict[str, Any], root: str) -> dict[str, Any]:
    """Remove old objects, caches, agents, runtimes and uploads. Raises Locked, Refused, OSError.

    An object that is younger than `grace_s`, by when it came or when a push last asked for it, stays: a push asks
    for objects, sends what is lacking and has them admitted, each as an operation of its own.
    """
    with board_lock(root), workspace(root) as folder:
        recover(root, folder)  # so that no release lies here but the active one and the one before
        needed: set[str] = set()
        models: set[str] = set()
        for number in numbers(root):
            try:
                manifest = manifest_of(root, number)
            except Refused as error:
                raise Refused(f"nothing is removed, for what release {number} needs is not known: {error}") from error
            needed.update(objects_of(manifest))
            models.add(file_of(manifest, "model")["sha256"])
        doomed = list(_garbage(root, needed, models, operation["grace_s"]))
        freed_bytes = _freed_bytes([path for _, path in doomed])
        for kind, path in doomed if not operation["dry_run"] else ():
            if kind == "runtime":
                # Whole or gone for whoever looks for it; our folder takes it along.
                os.rename(path, os.path.join(folder, os.path.basename(path)))
            else:
                remove_all(path)
    names = [f"{kind} {os.path.basename(path)}"[:200] for kind, path in doomed]
    return {"op": "collect", "removed": names[:1000], "removed_count": len(names), "freed_bytes": freed_bytes}


def _garbage(root: str, needed: set[str], models: set[str], grace_s: float) -> Iterator[tuple[str, str]]:
    agents = {os.path.basename(own_zip() or ""), os.path.basename(os.path.realpath(os.path.join(root, AGENT)))}
    now, upload_s = time.time(), max(grace_s, _LEAST_UPLOAD_S)
    for kind, folder, pattern, spared, age_s in (
        ("object", os.path.join("objects", "sha256"), _DIGEST, needed, grace_s),
        ("cache", "caches", _DIGEST, models, grace_s),
        ("agent", "agents", _AGENT, agents, upload_s),
        ("runtime", "runtimes", _DIGEST, runtimes_in_use(root), upload_s),
        ("upload", "tmp", re.compile("."), set(), upload_s),
    ):
        place = os.path.join(root, folder)
        for name in sorted(os.listdir(place)) if os.path.isdir(place) else []:
            path = os.path.join(place, name)
            try:
                # A clock that was set since may lie either way: too young is kept, too old is sent again.
                old = os.lstat(path).st_mtime < now - age_s
            except OSError:
                continue
            if old and pattern.match(name) and name not in spared:
                yield kind, path


def _freed_bytes(doomed: list[str]) -> int:
    """Return what the disk gets back for these files and folders: a file counts once all of its names go."""
    names: Counter[int] = Counter()
    files: dict[int, os.stat_result] = {}
    for path in doomed:
        inside = [os.path.join(folder, name) for folder, _, found in os.walk(path) for name in found]
        for each in [path, *inside]:
            try:
                status = os.lstat(each)
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                names[status.st_ino] += 1
                files[status.st_ino] = status
    return sum(status.st_size for inode, status in files.items() if names[inode] >= status.st_nlink)
