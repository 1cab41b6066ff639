"""The releases on this board: one folder each, and two links that say which is active and which was before."""

from __future__ import annotations

import os
import shutil
import stat
from typing import Any

from .checks import MalformedDocument
from .documents import sync, write_text
from .failures import Refused
from .interpreter import own_zip
from .limits import MAX_MANIFEST_BYTES
from .links import AGENT, NUMBER, STAGING, leavings, linked, numbers, release_folder, releases_folder
from .manifests import MANIFEST_FILE, SIGNATURE_FILE, file_of, read_manifest
from .objects import object_path, verify
from .plain_files import remove_all
from .sshsig import MalformedSignature, fingerprint, opened

_MAX_SIGNATURE_BYTES = 8 << 10


def point(root: str, link: str, number: int | None) -> None:
    """Make a link name a release, or nothing, at once and for good. Raises OSError."""
    path = os.path.join(root, link)
    if number is None:
        if os.path.lexists(path):
            os.unlink(path)
    else:
        _relink(root, link, f"releases/{number}")
    sync(root)


def point_agent(root: str) -> None:
    """Make the link `agent` name the agent that runs here, so that a start-up script finds one that can recover."""
    zipped = own_zip()
    if zipped and os.path.dirname(zipped) == os.path.join(os.path.abspath(root), "agents"):
        _relink(root, AGENT, os.path.join("agents", os.path.basename(zipped)))


def highest(root: str) -> int:
    """Return the highest number that was ever activated or tried here, 0 before the first. Raises Refused, OSError."""
    try:
        with open(releases_folder(root, "highest"), encoding="ascii", errors="replace") as file:
            content = file.read(32).strip()
    except FileNotFoundError:
        content = "0"
    if not content.isdigit():
        raise Refused(f"{releases_folder(root, 'highest')} is damaged: it must hold the highest release number")
    return max([int(content), *numbers(root)])


def raise_highest(root: str, number: int) -> None:
    """Keep for good that a number was used. Raises OSError."""
    write_text(releases_folder(root, "highest"), f"{number}\n")


def stage(root: str, manifest: dict[str, Any], text: str, signature: str, unpacked: dict[str, str]) -> None:
    """Lay a release in its folder, whole or not at all, without activating it.

    Objects are linked under readable names; `unpacked` has the paths of the files that were packed, by digest. Raises
    Refused where an object is not what it should be, FileNotFoundError, OSError.
    """
    number = manifest["number"]
    folder = releases_folder(root, f"{STAGING}{number}")
    os.makedirs(folder, mode=0o700)
    try:
        for entry in manifest["files"]:
            target = os.path.join(folder, entry["path"])
            source = unpacked.get(entry["sha256"]) or object_path(root, entry["sha256"])
            _link(source, target)
            try:
                verify(target, entry["sha256"], entry["size_bytes"])
            except Refused as error:
                raise Refused(f"{entry['path']}: {error}") from error
            sync(target)
        for name, content in ((MANIFEST_FILE, text), (SIGNATURE_FILE, signature)):
            path = os.path.join(folder, name)
            with open(path, "w", encoding="utf-8", newline="\n") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(path, 0o444)
        sync(folder)
        os.chmod(folder, 0o755)  # noqa: S103 - the application may run as another user
        os.rename(folder, release_folder(root, number))
        sync(releases_folder(root))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def clear_leavings(root: str) -> None:
    """Remove what processes that died left. The caller holds the lock, and there is no journal. Raises OSError."""
    for path in leavings(root):
        name = os.path.basename(path)
        if NUMBER.match(name):
            remove_release(root, int(name))
        else:
            remove_all(path)


def remove_release(root: str, number: int) -> None:
    """Remove a release that no link names, so that no half of it bears its number. Raises OSError."""
    folder = release_folder(root, number)
    doomed = releases_folder(root, f"{STAGING}gone-{number}")
    if os.path.isdir(folder):
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def read_release(root: str, number: int) -> tuple[str, str]:
    """Return the texts of a release's manifest and signature. Raises Refused, OSError."""
    folder = release_folder(root, number)
    manifest = _text(os.path.join(folder, MANIFEST_FILE), MAX_MANIFEST_BYTES)
    return manifest, _text(os.path.join(folder, SIGNATURE_FILE), _MAX_SIGNATURE_BYTES)


def manifest_of(root: str, number: int) -> dict[str, Any]:
    """Return the manifest of a release. Raises Refused, OSError."""
    try:
        return read_manifest(read_release(root, number)[0])
    except MalformedDocument as error:
        raise Refused(f"the manifest of release {number} cannot be used: {error}") from error


def path_of(root: str, manifest: dict[str, Any], role: str) -> str:
    """Return where the file of a role lies in its release."""
    return os.path.join(release_folder(root, manifest["number"]), file_of(manifest, role)["path"])


def drift(root: str, number: int) -> list[str]:
    """Return what of a release is no longer as it was when it was laid there; empty where all is."""
    try:
        manifest = manifest_of(root, number)
    except (Refused, OSError) as error:
        return [str(error)]
    found = []
    if manifest["number"] != number:
        found.append(f"{MANIFEST_FILE}: it is that of release {manifest['number']}")
    for entry in manifest["files"]:
        try:
            verify(os.path.join(release_folder(root, number), entry["path"]), entry["sha256"], entry["size_bytes"])
        except FileNotFoundError:  # noqa: PERF203 - three times
            found.append(f"{entry['path']}: it is gone")
        except (Refused, OSError) as error:
            found.append(f"{entry['path']}: {error}")
    return found


def describe(root: str, link: str) -> dict[str, Any] | None:
    """Return what a report says about the release that a link names; None where there is none."""
    number = linked(root, link)
    if number is None:
        return None
    found = {"number": number, "manifest": "", "signature": "", "key": "", "drift": drift(root, number)}
    found["since_unix_ns"] = os.lstat(os.path.join(root, link)).st_mtime_ns
    try:
        found["manifest"], found["signature"] = read_release(root, number)
        found["key"] = fingerprint(opened(str(found["signature"]))[0])
    except (Refused, MalformedSignature, OSError):
        pass  # what is wrong with it stands in the drift, or the host says so when it reads the texts
    return found


def _relink(root: str, link: str, target: str) -> None:
    # A name of its own for each, so that what a crash left of one is never taken for the other.
    temporary = os.path.join(root, f".{link}.next")
    if os.path.lexists(temporary):
        os.unlink(temporary)
    os.symlink(target, temporary)
    os.replace(temporary, os.path.join(root, link))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        # A file system without hard links, such as FAT, or one that has given out all it allows.
        shutil.copyfile(source, target)
    if stat.S_IMODE(os.stat(target).st_mode) != 0o444:
        os.chmod(target, 0o444)


def _text(path: str, max_bytes: int) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        content = file.read(max_bytes + 1)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if not text or len(content) > max_bytes:
        raise Refused(f"{os.path.basename(path)} is damaged")
    return text
