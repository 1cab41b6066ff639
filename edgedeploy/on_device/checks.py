"""Small checks of plain JSON values that say where a document is wrong; schema.py composes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    # Called with a value and its place in the document; raises MalformedDocument.
    Check = Callable[[Any, str], None]

MAX_ENTRIES = 10_000


class MalformedDocument(ValueError):
    """A document is not what it should be; the message names the place and what was expected there."""


def fail(where: str, expected: str, found: Any) -> None:
    """Raise MalformedDocument with the place, what was expected and what was found, cut short."""
    shown = repr(found)
    raise MalformedDocument(f"{where} must be {expected}, not {shown if len(shown) < 80 else shown[:77] + '...'}")


def anything(_value: Any, _where: str) -> None:
    """Accept any value."""


def text(value: Any, where: str) -> None:
    """Accept a text of bounded length."""
    if not isinstance(value, str) or len(value) > 4096:
        fail(where, "a text of at most 4096 characters", value)


def flag(value: Any, where: str) -> None:
    """Accept true or false."""
    if not isinstance(value, bool):
        fail(where, "true or false", value)


def integer(low: int, high: int) -> Check:
    """Accept a whole number from `low` to `high`."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            fail(where, f"a whole number from {low} to {high}", value)

    return check


def number(low: float = -1e300, high: float = 1e300) -> Check:
    """Accept a finite number from `low` to `high`."""

    def check(value: Any, where: str) -> None:
        known = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not known or not low <= value <= high:
            fail(where, f"a number from {low:g} to {high:g}", value)

    return check


def one_of(*words: str) -> Check:
    """Accept one of these words."""

    def check(value: Any, where: str) -> None:
        if value not in words:
            fail(where, "one of " + ", ".join(words), value)

    return check


def optional(inner: Check) -> Check:
    """Accept null, else what `inner` accepts."""

    def check(value: Any, where: str) -> None:
        if value is not None:
            inner(value, where)

    return check


def listing(inner: Check, least: int = 0, most: int = MAX_ENTRIES) -> Check:
    """Accept a list of `least` to `most` entries that `inner` accepts."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            fail(where, f"a list of {least} to {most} entries", value)
        for place, entry in enumerate(value):
            inner(entry, f"{where}[{place}]")

    return check


def mapping(inner: Check, key: Check = text) -> Check:
    """Accept an object whose keys `key` accepts and whose values `inner` accepts."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict) or len(value) > MAX_ENTRIES:
            fail(where, f"an object of at most {MAX_ENTRIES} keys", value)
        for name, entry in value.items():
            key(name, f"a key of {where}")
            inner(entry, f"{where}.{name}")

    return check


def record(fields: dict[str, Check], optional: dict[str, Check] | None = None, closed: bool = False) -> Check:
    """Return the check of an object with these keys; a closed one bears no others."""
    known = dict(fields, **(optional or {}))

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            fail(where, "an object", value)
        missing = sorted(set(fields) - set(value))
        if missing:
            raise MalformedDocument(f"{where} lacks {', '.join(missing)}")
        unknown = sorted(set(value) - set(known)) if closed else []
        if unknown:
            raise MalformedDocument(f"{where} has an unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
        for name in known:
            if name in value:
                known[name](value[name], f"{where}.{name}")

    return check


def sha256(value: Any, where: str) -> None:
    """Accept a digest as edgedeploy writes it."""
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        fail(where, "a SHA-256 of 64 lowercase hexadecimal digits", value)


def absolute(value: Any, where: str) -> None:
    """Accept an absolute path that does not climb."""
    text(value, where)
    if not value.startswith("/") or ".." in value.split("/") or "\0" in value:
        fail(where, "an absolute path without '..'", value)


def naturals(most: int) -> Check:
    """Accept one to `most` whole numbers, as fast as a million of them deserve."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list) or not 0 < len(value) <= most:
            fail(where, f"a list of 1 to {most} entries", value)
        if not all(type(entry) is int and 0 <= entry < 1 << 62 for entry in value):
            fail(where, "a list of whole numbers that are not negative", value)

    return check
