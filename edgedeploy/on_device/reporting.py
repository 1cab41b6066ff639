"""What this board says about its releases, without changing any."""

from __future__ import annotations

import time
from typing import Any

from .documents import read_json
from .failures import Refused
from .links import CURRENT, PREVIOUS, releases_folder
from .lock import Locked, board_lock
from .releases import describe, highest
from .trust import read_trust


def release_state(_operation: dict[str, Any], root: str) -> dict[str, Any]:
    """Say which releases are here and whether their files are still what they were. Raises Refused, OSError."""
    try:
        with board_lock(root):
            return _state(root, busy=False)
    except Locked:
        return _state(root, busy=True)


def _state(root: str, busy: bool) -> dict[str, Any]:
    trust = read_trust(root)
    shown = None
    if trust is not None:
        shown = {name: trust[name] for name in ("fingerprint", "profile", "device", "serial")}
    return {
        "op": "releases",
        "busy": busy,
        "trust": shown,
        "highest": highest(root),
        "current": describe(root, CURRENT),
        "previous": describe(root, PREVIOUS),
        "recovered": _recovered(root),
    }


def _recovered(root: str) -> str:
    try:
        found = read_json(releases_folder(root, "recovered.json"), 64 << 10)
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(int(found["unix"])))
        return f"{when}: {str(found['what'])[:1000]}"
    except (OSError, ValueError, KeyError, TypeError, OverflowError, Refused):
        return ""
