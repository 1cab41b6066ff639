"""Unpacks a provisioned runtime beside the others, and puts it to use only after it has run here."""

from __future__ import annotations

import errno
import glob
import gzip
import os
import shutil
import tarfile
import zlib
from typing import TYPE_CHECKING, Any

from .children import Children
from .documents import sync, write_text
from .failures import Refused
from .interpreter import bundle_in_use
from .lock import Locked, board_lock
from .objects import object_path, space, verify
from .plain_files import remove
from .workspace import RUNTIME, clear_workspaces, workspace

if TYPE_CHECKING:
    from typing import BinaryIO

CURRENT = "current"
MAX_ENTRIES = 50_000
_TRIAL_TIMEOUT_S = 300.0
_CHUNK_BYTES = 1 << 20
# What a file may take beyond its bytes: the rest of its last block.
_BLOCK_BYTES = 4096


def unpack_runtime(operation: dict[str, Any], root: str) -> dict[str, Any]:
    """Unpack an object among the runtimes, try it, and make it the one that jobs use.

    Nothing changes unless at least one of the runtimes in `imports` can be imported; those in `also` are tried too.
    Raises Refused, Locked, OSError.
    """
    sha256 = operation["sha256"]
    folder = os.path.join(root, "runtimes")
    final = os.path.join(folder, sha256)
    with board_lock(root), workspace(root, RUNTIME) as temporary:
        os.makedirs(folder, exist_ok=True)
        names = [*operation["imports"], *operation.get("also", [])]
        found, failed = {}, {}  # type: dict[str, str], dict[str, str]
        if os.path.isfile(os.path.join(final, "bundle.json")):
            found, failed = _try(final, names, temporary)
        if failed or not found:
            _place(operation, root, temporary, final)
            found, failed = _try(final, names, temporary)
        if not set(found).intersection(operation["imports"]):
            shutil.rmtree(final, ignore_errors=True)
            raise Refused("nothing in it can be imported here: " + "; ".join(sorted(failed.values())))
        _use(folder, sha256, operation["python"])
        remove(object_path(root, sha256))
    return dict(space(root), op="unpack_runtime", runtimes=found, failed=failed)


def tidy_runtimes(_operation: dict[str, Any], root: str) -> dict[str, Any]:
    """Remove what agents left that were killed while they unpacked, and say what is free then. Raises OSError."""
    try:
        with board_lock(root):
            clear_workspaces(root)
    except Locked:
        pass  # one is unpacking now, or will do this itself
    return dict(space(root), op="tidy_runtimes")


def runtimes_in_use(root: str) -> set[str]:
    """Return the digests of the runtimes here that jobs are to use, or that any process is started from or has loaded.

    All of them where it cannot be told which one jobs are to use.
    """
    folder = os.path.join(root, "runtimes")
    there = set(filter(_is_digest, os.listdir(folder) if os.path.isdir(folder) else ()))
    pointer = os.path.join(folder, CURRENT)
    current = _pointed(pointer)
    if os.path.lexists(pointer) and not current:
        return there
    used = {current, os.path.basename(bundle_in_use() or "")}
    # An agent is told by its command line which one its workers are to use; other programs have its libraries loaded.
    for path in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/maps"):
        if used.issuperset(there):
            break
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError:
            continue  # it has ended, or is another user's
        used.update(name for name in there - used if name.encode() in content)
    return used


def unpack(archive: BinaryIO, folder: str, max_bytes: int) -> None:
    """Unpack plain files and folders of a compressed tar. Raises Refused for all else, for more bytes, and for less.

    Links are refused too: a bundle has none, and one is how a file gets outside.
    """
    left, entries = max_bytes, 0
    try:
        with gzip.GzipFile(fileobj=archive) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
            for member in tar:
                entries += 1
                _check(member, entries)
                path = os.path.join(folder, *member.name.split("/"))
                if member.isdir():
                    os.makedirs(path, exist_ok=True)
                    continue
                left -= member.size
                if left < 0:
                    raise Refused(f"it unpacks to more than {max_bytes} bytes")
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "xb") as file:
                    content = tar.extractfile(member)
                    assert content is not None
                    shutil.copyfileobj(content, file, _CHUNK_BYTES)
                os.chmod(path, 0o755 if member.mode & 0o100 else 0o644)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise Refused(f"it cannot be read: {error}") from error
    except FileExistsError as error:
        raise Refused(f"it holds {os.path.basename(str(error.filename))!r} twice") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise Refused(f"it cannot be read: {error}") from error  # what gzip says of bytes that are none of its own


def _check(member: tarfile.TarInfo, entries: int) -> None:
    parts = member.name.split("/")
    if member.name.startswith("/") or not set(parts).isdisjoint(("", ".", "..")) or "\0" in member.name:
        raise Refused(f"it holds {member.name[:80]!r}, which leads outside")
    if not (member.isreg() or member.isdir()) or member.sparse is not None:
        raise Refused(f"it holds {member.name[:80]!r}, which is no plain file")
    if entries > MAX_ENTRIES:
        raise Refused(f"it holds more than {MAX_ENTRIES} files")


def _place(operation: dict[str, Any], root: str, temporary: str, final: str) -> None:
    archive = object_path(root, operation["sha256"])
    try:
        verify(archive, operation["sha256"], operation["size_bytes"])
    except FileNotFoundError as error:
        raise Refused("its object is not there; send it again") from error
    needed, free = operation["unpacked_bytes"] + operation["files"] * _BLOCK_BYTES, space(root)["free_bytes"]
    if needed > free:
        raise OSError(errno.ENOSPC, f"the runtime needs {needed >> 20} MiB and {free >> 20} MiB are free", root)
    unpacked = os.path.join(temporary, "unpacked")
    os.mkdir(unpacked, 0o755)
    with open(archive, "rb") as file:
        unpack(file, unpacked, operation["unpacked_bytes"])
    # One call for thousands of small files: syncing each takes minutes on an SD card.
    os.sync()
    if os.path.isdir(final):
        os.rename(final, os.path.join(temporary, "spoilt"))
    os.rename(unpacked, final)
    sync(os.path.dirname(final))


def _try(bundle: str, names: list[str], temporary: str) -> tuple[dict[str, str], dict[str, str]]:
    """Import each as a worker would; returns versions and, for those that fail, why."""
    children = Children(temporary, bundle)
    answers = {name: children.run("version", {"runtime": name}, _TRIAL_TIMEOUT_S) for name in names}
    found = {name: answer["version"] for name, answer in answers.items() if answer["outcome"] == "ok"}
    return found, {name: answers[name]["detail"] for name in names if name not in found}


def _use(folder: str, sha256: str, python: str) -> None:
    pointer = os.path.join(folder, CURRENT)
    before = _pointed(pointer)
    write_text(pointer, f"{sha256}\n{python}\n")
    if before and before != sha256:
        shutil.rmtree(os.path.join(folder, before), ignore_errors=True)


def _pointed(pointer: str) -> str:
    try:
        with open(pointer, encoding="utf-8", errors="replace") as file:
            digest = file.readline(100).strip()
    except OSError:
        return ""
    return digest if _is_digest(digest) else ""


def _is_digest(name: str) -> bool:
    return len(name) == 64 and not set(name) - set("0123456789abcdef")
