"""How a job says that an accelerator is to be switched on for a file."""

from __future__ import annotations

from typing import Any

from .checks import fail, listing, mapping, one_of, record, text


def library(value: Any, where: str) -> None:
    """Accept the name of a library, or a path that does not climb."""
    text(value, where)
    if not value or ".." in value.split("/") or "\0" in value:
        fail(where, "the name of a library, or its path without '..'", value)


_options = mapping(text)
# By an execution provider, which may come from a library of its own and may leave nodes to those in `then`, or by a
# delegate from a library. A variant has none for the CPU, and where the runtime applies the accelerator by itself.
# `{cache}` and `{threads}` in a value are filled in on the board.
SWITCH = record(
    {},
    {
        "provider": text,
        "library": library,
        "device": one_of("cpu", "gpu", "npu"),
        "then": listing(text, 0, 16),
        "session": _options,
        "delegate": library,
        "options": _options,
    },
    closed=True,
)
