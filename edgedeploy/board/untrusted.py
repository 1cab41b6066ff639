"""Takes out of what a board says whatever would steer a terminal that shows it."""

from __future__ import annotations

import re
from typing import Any

# Control characters but for tab and newline; those of C1; and the ones that turn text round in its line.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """The text with a replacement character for each one that is not to be shown; a carriage return is dropped."""
    return _STEERING.sub("\ufffd", text.replace("\r\n", "\n"))


def plain_document(value: Any) -> Any:
    """A JSON document with all its texts plain, keys too; lists of whole numbers are passed over, long as they are."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {plain(key): plain_document(entry) for key, entry in value.items()}
    if isinstance(value, list) and not set(map(type, value)) <= {int}:
        return [plain_document(entry) for entry in value]
    return value


def printable(text: str, most: int = 300) -> str:
    """The text without whatever is not printable, breaks among it, and cut to `most` characters."""
    return "".join(character for character in text if character.isprintable())[:most]


def one_line(text: str, most: int = 2000) -> str:
    """The text plain, without breaks, and cut to `most` characters."""
    shown = " ".join(plain(text[: most + 1]).split())
    return shown if len(shown) <= most else shown[: most - 3] + "..."
