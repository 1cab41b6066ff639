"""Which key this board takes releases from, and what it was told to be; both settled when it was enrolled."""

from __future__ import annotations

import json
import os
from typing import Any

from .checks import MalformedDocument, integer, record, text
from .documents import sync, write_text
from .failures import Refused
from .lock import board_lock
from .signatures import SIGNER, verify_signature
from .sshsig import MANIFEST_NAMESPACE, ROTATION_NAMESPACE, MalformedSignature, fingerprint, public_blob
from .workspace import workspace

_MAX_BYTES = 16 << 10
_IDENTITY = record({"profile": text, "device": text, "serial": integer(0, 1 << 31)}, closed=True)
_STATEMENT = record(
    {"kind": text, "key": text, "device": text, "profile": text, "serial": integer(1, 1 << 31)}, closed=True
)


def signers_path(root: str) -> str:
    """Return where the allowed signers lie, in the form that ssh-keygen reads."""
    return os.path.join(root, "trust", "allowed_signers")


def read_trust(root: str) -> dict[str, Any] | None:
    """Return blob, fingerprint, profile, device and serial; None before the enrolment. Raises Refused, OSError."""
    try:
        with open(signers_path(root), encoding="utf-8") as file:
            lines = file.read(_MAX_BYTES).splitlines()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        lines = []
    try:
        first, second = lines
        identity = json.loads(first[1:] if first.startswith("#") else "")
        _IDENTITY(identity, "the identity")
        blob = public_blob(second.split('" ', 1)[1])
    except (ValueError, IndexError) as error:
        raise Refused(f"{signers_path(root)} is damaged; remove it and enrol the board again") from error
    return dict(identity, blob=blob, fingerprint=fingerprint(blob))


def enrol(operation: dict[str, Any], root: str) -> dict[str, Any]:
    """Trust a key from now on, where none is trusted yet or where `replaces` names the one that is.

    Raises Refused where another key is trusted, Locked, OSError.
    """
    with board_lock(root):
        key = _key(operation["key"])
        blob = public_blob(key)
        there = read_trust(root)
        serial = 0
        if there is not None:
            if there["blob"] != blob and operation["replaces"] != there["fingerprint"]:
                raise Refused(
                    f"this board trusts the key {there['fingerprint']}, not {fingerprint(blob)}; "
                    "rotate the key, or enrol the board with the trusted one named as the one to replace"
                )
            serial = there["serial"] + (there["blob"] != blob)
        _write(root, key, operation["profile"], operation["device"], serial)
    return {"op": "enrol", "known": there is not None, "fingerprint": fingerprint(blob)}


def rotate(operation: dict[str, Any], root: str) -> dict[str, Any]:
    """Trust another key from now on, as a statement says that the trusted one signed. Raises Refused, OSError."""
    with board_lock(root), workspace(root) as folder:
        there = read_trust(root)
        if there is None:
            raise Refused("this board is not enrolled yet, so there is no key to rotate")
        content = operation["statement"].encode()
        verify_signature(content, operation["signature"], signers_path(root), there["blob"], ROTATION_NAMESPACE, folder)
        try:
            statement = json.loads(content.decode())
            _STATEMENT(statement, "the statement")
        except (ValueError, RecursionError) as error:
            raise Refused(f"the signed statement cannot be read: {error}") from error
        if statement["kind"] != "rotation" or statement["serial"] != there["serial"] + 1:
            raise Refused("the signed statement is no rotation, or one of before the last rotation")
        for what in ("profile", "device"):
            if statement[what] != there[what]:
                raise Refused(f"the rotation is for the {what} {statement[what]!r}, and this board is {there[what]!r}")
        key = _key(statement["key"])
        _write(root, key, there["profile"], there["device"], statement["serial"])
    return {"op": "rotate", "fingerprint": fingerprint(public_blob(key))}


def _key(line: str) -> str:
    try:
        public_blob(line)
    except MalformedSignature as error:
        raise MalformedDocument(str(error)) from error
    return " ".join(line.split()[:2])


def _write(root: str, key: str, profile: str, device: str, serial: int) -> None:
    # One file says it all, so that it is replaced at once; ssh-keygen passes over the comment.
    identity = json.dumps({"profile": profile, "device": device, "serial": serial}, sort_keys=True)
    line = f'{SIGNER} namespaces="{MANIFEST_NAMESPACE},{ROTATION_NAMESPACE}" {key}'
    path = signers_path(root)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    write_text(path, f"# {identity}\n{line}\n")
    sync(root)
