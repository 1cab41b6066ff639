"""Decides from the user's known_hosts files whether a server is who it was; adds to them only when told to."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from edgedeploy.errors import HostKeyError, OfferedKey


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A line of a known_hosts file that speaks of the host asked for."""

    key_type: str
    blob: bytes
    revoked: bool
    file: Path


def fingerprint(blob: bytes) -> str:
    """The SHA256 fingerprint of a public key, written as OpenSSH writes it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).rstrip(b"=").decode()


def host_pattern(host: str, port: int) -> str:
    """The name under which known_hosts files keep a host."""
    return host if port == 22 else f"[{host}]:{port}"


def known_keys(files: Iterable[Path], name: str) -> list[KnownKey]:
    """The keys that `files` hold for `name`; files and lines that cannot be read hold none.

    Lines of certificate authorities are passed over: host certificates are not supported.
    """
    found = []
    for file in files:
        try:
            text = file.read_text("utf-8", "replace")
        except OSError:
            continue
        for line in text.splitlines():
            fields = line.split()
            marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
            if len(fields) < 3 or fields[0].startswith("#") or marker == "@cert-authority":
                continue
            try:
                blob = base64.b64decode(fields[2], validate=True)
            except binascii.Error:
                continue
            if _names(fields[0], name):
                found.append(KnownKey(fields[1], blob, marker == "@revoked", file))
    return found


def _names(field: str, name: str) -> bool:
    matched = False
    for pattern in field.split(","):
        if pattern.startswith("|1|"):
            matched = matched or _hash_matches(pattern, name)
        elif pattern.startswith("!"):
            if _pattern_matches(pattern[1:], name):
                return False
        else:
            matched = matched or _pattern_matches(pattern, name)
    return matched


def _pattern_matches(pattern: str, name: str) -> bool:
    # fnmatch reads brackets as sets, but here they surround a host that is followed by its port
    return fnmatchcase(name.lower(), pattern.lower().replace("[", "[[]"))


def _hash_matches(pattern: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in pattern[3:].split("|"))
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode(), "sha1"), digest)


def check_host_key(
    board: str, name: str, key_type: str, blob: bytes, keys: Sequence[KnownKey], files: Sequence[Path]
) -> None:
    """Accept the key that a server showed only when it is known under `name`. Raises HostKeyError."""
    shown = fingerprint(blob)
    if any(key.revoked and key.blob == blob for key in keys):
        raise HostKeyError(board, f"the host key {shown} of {name} is marked as revoked in known_hosts.")
    trusted = [key for key in keys if not key.revoked]
    if any(key.blob == blob for key in trusted):
        return
    target = files[0] if files else Path("~/.ssh/known_hosts")
    host, _, port = name.removeprefix("[").partition("]:")
    scan = f"ssh-keyscan -p {port} {host}" if port else f"ssh-keyscan {host}"
    if not trusted:
        raise HostKeyError(
            board,
            f"{name} is not known yet and shows the {key_type} host key {shown}; compare this with the board's own "
            f"(`ssh-keygen -lf` on /etc/ssh/ssh_host_*_key.pub there), then run `{scan} >> {target}`.",
            OfferedKey(name, key_type, blob, target.expanduser()),
        )
    same_type = [key for key in trusted if key.key_type == key_type] or trusted
    known = same_type[0]
    raise HostKeyError(
        board,
        f"THE HOST KEY OF {name} HAS CHANGED: it shows {shown} ({key_type}), but {known.file} has "
        f"{fingerprint(known.blob)} ({known.key_type}); either the board was installed anew or somebody listens in. "
        f"Only if you know why, remove the old key with `ssh-keygen -f {known.file} -R '{name}'` and enrol the new one "
        f"with `{scan} >> {target}`.",
    )


def enrol_host_key(key: OfferedKey) -> None:
    """Add a key to its known_hosts file, which is made where it is not there. Raises OSError."""
    key.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    line = f"{key.name} {key.key_type} {base64.b64encode(key.blob).decode()}\n"
    descriptor = os.open(key.file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                line = "\n" + line
        file.write(line.encode())
