"""What jobs ask about releases and what reports answer: the part of the schema that deploying needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .checks import fail, flag, integer, listing, number, one_of, optional, record, sha256, text
from .limits import MAX_MANIFEST_BYTES, MAX_NUMBER

if TYPE_CHECKING:
    from .checks import Check


def _long(value: Any, where: str) -> None:
    if not isinstance(value, str) or len(value) > MAX_MANIFEST_BYTES:
        fail(where, f"a text of at most {MAX_MANIFEST_BYTES} characters", value)


_count = integer(0, 1 << 62)
_number = integer(1, MAX_NUMBER)
_RELEASE = record(
    {
        "number": _number,
        "manifest": _long,
        "signature": _long,
        "key": text,
        "drift": listing(text, 0, 100),
        "since_unix_ns": _count,
    }
)
_DONE: dict[str, Check] = {
    "outcome": one_of("active", "rolled_back", "missing"),
    "number": _number,
    "before": optional(_number),
    "detail": text,
    "notes": listing(text, 0, 100),
    "missing": listing(sha256, 0, 100),
    "p50_ns": optional(_count),
    "before_p50_ns": optional(_count),
}
RELEASE_OPERATIONS: dict[Any, dict[str, Check]] = {
    "releases": {},
    "enrol": {"key": text, "profile": text, "device": text, "replaces": optional(text)},
    "rotate": {"statement": text, "signature": text},
    "deploy": {"manifest": _long, "signature": _long},
    "rollback": {"number": optional(_number)},
    "collect": {"dry_run": flag, "grace_s": number(0, 1e9)},
}
RELEASE_RESULTS: dict[Any, dict[str, Check]] = {
    "releases": {
        "busy": flag,
        "trust": optional(record({"fingerprint": text, "profile": text, "device": text, "serial": _count})),
        "highest": integer(0, MAX_NUMBER),
        "current": optional(_RELEASE),
        "previous": optional(_RELEASE),
        "recovered": text,
    },
    "enrol": {"known": flag, "fingerprint": text},
    "rotate": {"fingerprint": text},
    "deploy": _DONE,
    "rollback": _DONE,
    "collect": {"removed": listing(text, 0, 1000), "removed_count": _count, "freed_bytes": _count},
}
