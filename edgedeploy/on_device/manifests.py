"""What the manifest of a release looks like, for the host that signs it and the board that acts on it."""

from __future__ import annotations

import json
import re
from typing import Any

from .checks import MalformedDocument, fail, integer, listing, number, one_of, optional, record, sha256, text
from .limits import MAX_MANIFEST_BYTES, MAX_NUMBER, MAX_OBJECT_BYTES
from .switching import SWITCH

MANIFEST_SCHEMA = 1
MODEL, CONTRACT, PROBE = "model", "contract", "probe"
MANIFEST_FILE = "manifest.json"
SIGNATURE_FILE = "manifest.json.sig"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")


def read_manifest(content: str) -> dict[str, Any]:
    """Return the manifest that a text holds. Raises MalformedDocument."""
    if len(content) > MAX_MANIFEST_BYTES:
        raise MalformedDocument(f"the manifest is longer than {MAX_MANIFEST_BYTES} characters")
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise MalformedDocument(f"the manifest is no JSON: {error}") from error
    _MANIFEST(manifest, "the manifest")
    roles = sorted(entry["role"] for entry in manifest["files"])
    if roles != [CONTRACT, MODEL, PROBE]:
        raise MalformedDocument("the manifest must name one model, one contract and one probe")
    paths = [entry["path"].lower() for entry in manifest["files"]]
    if len(set(paths)) < len(paths):
        raise MalformedDocument("the manifest names a path twice")
    if manifest["expires_unix"] <= manifest["issued_unix"]:
        raise MalformedDocument("the manifest expires before it is issued")
    return dict(manifest)


def file_of(manifest: dict[str, Any], role: str) -> dict[str, Any]:
    """Return the entry of the one file of this role."""
    entry: dict[str, Any] = next(entry for entry in manifest["files"] if entry["role"] == role)
    return entry


def objects_of(manifest: dict[str, Any]) -> list[str]:
    """Return the digests of the objects that the release is made of: of a packed file, those of its container."""
    return [(entry["packed"] or entry)["sha256"] for entry in manifest["files"]]


def _path(value: Any, where: str) -> None:
    # A release is flat: a path is a name that no shell, terminal or file system reads as anything else.
    text(value, where)
    if not _NAME.match(value) or value.lower() in (MANIFEST_FILE, SIGNATURE_FILE):
        fail(where, "a plain file name: letters, digits, '.', '_' and '-', at most 100, a letter or digit first", value)


def _schema(value: Any, where: str) -> None:
    if value != MANIFEST_SCHEMA or isinstance(value, bool):
        fail(where, f"{MANIFEST_SCHEMA}, the only schema known here", value)


def _kind(value: Any, where: str) -> None:
    if value != "release":
        fail(where, "'release'", value)


_size = integer(0, MAX_OBJECT_BYTES)
_time = integer(0, 1 << 40)
_seconds = number(0, 3600)
_argv = optional(listing(text, 1, 64))
_MANIFEST = record(
    {
        "schema": _schema,
        "kind": _kind,
        "number": integer(1, MAX_NUMBER),
        "profile": text,
        "device": optional(text),
        "issued_unix": _time,
        "expires_unix": _time,
        "variant": record({"id": text, "name": text, "format": text}, closed=True),
        "files": listing(
            record(
                {
                    "role": one_of(MODEL, CONTRACT, PROBE),
                    "path": _path,
                    "sha256": sha256,
                    "size_bytes": _size,
                    "packed": optional(record({"sha256": sha256, "size_bytes": _size}, closed=True)),
                },
                closed=True,
            ),
            3,
            3,
        ),
        # How the runtime is to run the model, here and in the application.
        "run": record(
            {"threads": integer(1, 1024), "accelerator": text, "switch": optional(SWITCH)},
            closed=True,
        ),
        "hooks": record(
            {
                "reload": _argv,
                "reload_timeout_s": _seconds,
                "health": _argv,
                "health_timeout_s": _seconds,
            },
            closed=True,
        ),
        "probation": record(
            {
                "attempts": integer(1, 10),
                "pause_s": number(0, 60),
                "tolerance": number(0, 1e9),
                "steady_s": number(0, 600),
                "child_timeout_s": number(0.001, 86_400),
                # Of the median of a run: what it may be, and how many times that of the release before.
                "max_p50_ms": optional(number(0, 1e9)),
                "max_ratio": optional(number(0, 1e9)),
            },
            closed=True,
        ),
    },
    closed=True,
)
