"""Makes a release the active one, or the one before it again: the old state or the new, never a third.

What is about to happen is written down first, in the journal. Whoever finds a journal under the lock finds work of a
process that died: what was not proven is taken back, what was proven is brought to its end, as often as it takes.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

from .checks import MalformedDocument, flag, integer, one_of, optional, record
from .children import Children
from .documents import read_json, sync, write_json
from .failures import Refused
from .limits import MAX_NUMBER
from .links import CURRENT, PREVIOUS, journal_path, linked, numbers, releases_folder
from .lock import Locked, board_lock
from .manifests import objects_of, read_manifest
from .objects import object_path
from .probation import Failed, prove, tell, unhealthy
from .releases import (
    clear_leavings,
    drift,
    highest,
    manifest_of,
    point,
    point_agent,
    raise_highest,
    read_release,
    remove_release,
    stage,
)
from .signatures import verify_signature
from .sshsig import MANIFEST_NAMESPACE
from .stopping import Stopped
from .trust import read_trust, signers_path
from .workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

_ACTIVATING, _REVERTING, _COMMITTING = "activating", "reverting", "committing"
_number = optional(integer(1, MAX_NUMBER))
_JOURNAL = record(
    {
        "state": one_of(_ACTIVATING, _REVERTING, _COMMITTING),
        "target": integer(1, MAX_NUMBER),
        "before": _number,
        "new": flag,
    },
    closed=True,
)


def deploy(operation: dict[str, Any], root: str) -> dict[str, Any]:
    """Activate the release of a signed manifest whose objects lie here. Raises Refused, Locked, OSError.

    The result says `active`, `rolled_back` with the reason, or `missing` with the objects that are not here.
    """
    with board_lock(root), workspace(root) as folder, _recovering(root, folder):
        text, signature = operation["manifest"], operation["signature"]
        manifest, notes = accepted(root, text, signature, folder)
        missing = [sha256 for sha256 in objects_of(manifest) if not os.path.isfile(object_path(root, sha256))]
        number = manifest["number"]
        if missing:
            return dict(_result("deploy", "missing", number, None), missing=missing)
        children = Children(folder)
        stage(root, manifest, text, signature, _unpacked(root, manifest, children, folder))
        return _activate("deploy", root, manifest, notes, children, new=True)


def rollback(operation: dict[str, Any], root: str) -> dict[str, Any]:
    """Activate the release before, and no other, which is verified again first. Raises Refused, Locked, OSError."""
    with board_lock(root), workspace(root) as folder, _recovering(root, folder):
        number = linked(root, PREVIOUS)
        if number is None:
            raise Refused("there is no release before the active one")
        if operation["number"] not in (None, number):
            raise Refused(f"the release before is {number} by now, not {operation['number']}")
        text, signature = read_release(root, number)
        manifest = _verified(root, text, signature, folder)
        if manifest["number"] != number:
            raise Refused(f"release {number} holds the manifest of release {manifest['number']}")
        return _activate("rollback", root, manifest, [], Children(folder), new=False)


def settle(root: str, starting: bool = False) -> None:
    """Recover where nobody is at work; `starting` says that the board just starts. Raises Refused, OSError."""
    try:
        with board_lock(root), workspace(root) as folder:
            recover(root, folder, starting)
    except Locked:
        pass  # whoever holds the board wrote the journal, or has just recovered by it


@contextlib.contextmanager
def _recovering(root: str, folder: str) -> Iterator[None]:
    """Recover before the block, and after it where a signal ended it: a board that shuts down is left in one state."""
    try:
        recover(root, folder)
        yield
    except Stopped:
        with contextlib.suppress(Refused, OSError):  # then the next operation finds the journal, as after a crash
            recover(root, folder)
        raise


def recover(root: str, folder: str, starting: bool = False) -> None:
    """Bring what a dead process left to the old state or the new one. The caller holds the lock.

    While the board is `starting`, an application that is not healthy is not told: it has yet to start, and may wait
    for us to end. Raises Refused where the journal is damaged, OSError.
    """
    path = journal_path(root)
    if not os.path.lexists(path):
        clear_leavings(root)
        return
    try:
        journal = read_json(path)
        _JOURNAL(journal, "the journal")
    except ValueError as error:
        raise Refused(
            f"{path} is damaged, so that nothing is done: look where `current` points, set it right and remove that "
            f"file ({error})"
        ) from error
    if journal["state"] == _COMMITTING:
        _commit(root, journal)
        what = f"the activation of release {journal['target']} was brought to its end"
    else:
        what = f"the activation of release {journal['target']} was taken back"
        failed = _revert(root, journal, os.path.join(folder, "hook"), starting)
        what = _with_untold(what, failed)
    clear_leavings(root)
    write_json(releases_folder(root, "recovered.json"), {"unix": int(time.time()), "what": what[:1000]})


def accepted(root: str, text: str, signature: str, folder: str) -> tuple[dict[str, Any], list[str]]:
    """Return a manifest that may be activated here now, and what is to be said of that. Raises Refused, OSError."""
    manifest = _verified(root, text, signature, folder)
    notes = []
    last = highest(root)
    if manifest["number"] <= last:
        raise Refused(
            f"release {manifest['number']} is not newer than {last}, the highest that this board has seen: numbers "
            "only rise; if another deploy came first, run again"
        )
    now = time.time()
    if now < manifest["issued_unix"]:
        notes.append("the board's clock is behind the time of signing, so that expiry could not be checked")
    elif now > manifest["expires_unix"]:
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(manifest["expires_unix"]))
        raise Refused(f"release {manifest['number']} has expired at {when}; sign it anew by deploying again")
    return manifest, notes


def _verified(root: str, text: str, signature: str, folder: str) -> dict[str, Any]:
    trust = read_trust(root)
    if trust is None:
        raise Refused("this board is not enrolled: it trusts no key yet")
    verify_signature(text.encode(), signature, signers_path(root), trust["blob"], MANIFEST_NAMESPACE, folder)
    try:
        manifest = read_manifest(text)
    except MalformedDocument as error:
        raise Refused(f"the signed manifest cannot be used: {error}") from error
    for what, wanted in (("profile", manifest["profile"]), ("device", manifest["device"])):
        if wanted not in (None, trust[what]):
            raise Refused(f"the release is for the {what} {wanted!r}, and this board was enrolled as {trust[what]!r}")
    return manifest


def _unpacked(root: str, manifest: dict[str, Any], children: Children, folder: str) -> dict[str, str]:
    found = {}
    for entry in manifest["files"]:
        if entry["packed"] is not None:
            target = os.path.join(folder, entry["sha256"])
            known = {"file": target, "sha256": entry["sha256"], "file_bytes": entry["size_bytes"]}
            packed = object_path(root, entry["packed"]["sha256"])
            timeout_s = manifest["probation"]["child_timeout_s"]
            answer = children.run("unpack", dict(known, packed=packed), timeout_s)
            if answer["outcome"] != "ok":
                raise Refused(f"{entry['path']} cannot be rebuilt: {answer['outcome']}: {answer['detail']}")
            found[entry["sha256"]] = target
    return found


def _activate(
    op: str, root: str, manifest: dict[str, Any], notes: list[str], children: Children, new: bool
) -> dict[str, Any]:
    number, before = manifest["number"], linked(root, CURRENT)
    journal = {"state": _ACTIVATING, "target": number, "before": before, "new": new}
    try:
        if new:
            raise_highest(root, number)
            point_agent(root)
        # The bytes that count are those that lie here now, whatever was verified when they came.
        changed = drift(root, number)
        if changed:
            raise Refused(f"release {number} is not activated: {changed[0]}")
        write_json(journal_path(root), journal)
    except BaseException:
        if new and not os.path.lexists(journal_path(root)):
            remove_release(root, number)
        raise
    try:
        point(root, CURRENT, number)
        proof = prove(root, manifest, _sound(root, before), children)
        write_json(journal_path(root), dict(journal, state=_COMMITTING))
    except (Failed, Refused, OSError, ValueError) as error:
        failed = _revert(root, dict(journal, state=_REVERTING), children.path("hook"))
        detail = _with_untold(str(error), failed)
        return dict(_result(op, "rolled_back", number, before), detail=detail[:2000], notes=notes)
    _commit(root, journal)
    return dict(
        _result(op, "active", number, before),
        notes=[*notes, *proof.notes],
        p50_ns=proof.p50_ns,
        before_p50_ns=proof.before_p50_ns,
    )


def _sound(root: str, number: int | None) -> dict[str, Any] | None:
    """The manifest of a release to compare with, None where there is none or it is damaged."""
    try:
        return None if number is None else manifest_of(root, number)
    except (Refused, OSError):
        return None


def _commit(root: str, journal: dict[str, Any]) -> None:
    target, before = journal["target"], journal["before"]
    if linked(root, CURRENT) != target:
        point(root, CURRENT, target)
    if before != target:
        point(root, PREVIOUS, before)
    for number in numbers(root):
        if number not in (target, before):
            remove_release(root, number)
    _forget(root)


def _revert(root: str, journal: dict[str, Any], output: str, starting: bool = False) -> str:
    """Take an activation back; return why the application could not be told, or ""."""
    target, before = journal["target"], journal["before"]
    switched = linked(root, CURRENT) != before or journal["state"] == _REVERTING
    if switched:
        try:
            # A crash from here on must not forget that the application is to be told again.
            write_json(journal_path(root), dict(journal, state=_REVERTING))
        except OSError:
            pass  # a full disk must not keep the old release from coming back
        point(root, CURRENT, before)
    failed = ""
    if switched:
        try:
            known = manifest_of(root, target if before is None else before)
            active = None if before is None else known
            if not starting or not unhealthy(root, known["hooks"], active, output):
                tell(root, known["hooks"], active, output)
        except (Failed, Refused, OSError) as error:
            failed = str(error)
    if journal["new"]:
        remove_release(root, target)
    _forget(root)
    return failed


def _with_untold(what: str, failed: str) -> str:
    if not failed:
        return what
    untold = "the application could not be told of the old release again"
    return f"{what}; and for the same reason {untold}" if failed in what else f"{what}; and {untold}: {failed}"


def _forget(root: str) -> None:
    os.unlink(journal_path(root))
    sync(releases_folder(root))


def _result(op: str, outcome: str, number: int, before: int | None) -> dict[str, Any]:
    return {
        "op": op,
        "outcome": outcome,
        "number": number,
        "before": before,
        "detail": "",
        "notes": [],
        "missing": [],
        "p50_ns": None,
        "before_p50_ns": None,
    }
