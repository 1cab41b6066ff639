"""Why a file cannot be run here, in the kinds that callers treat differently."""

from __future__ import annotations


class RuntimeUnavailable(Exception):
    """No runtime for the format can be imported here. `name` tells which would do."""

    def __init__(self, name: str, reason: str = "") -> None:
        super().__init__("no runtime here can be imported: " + name + (" (" + reason + ")" if reason else ""))
        self.name = name


class Refused(Exception):
    """A file is not what it is said to be."""


class UnsupportedModel(Exception):
    """The runtime is there and cannot run this file as asked; the message is its reason, on one line."""


def refusal(error: BaseException) -> Exception:
    """Return what a runtime's own error means: MemoryError where it ran out, else UnsupportedModel."""
    reason = " ".join(str(error).split())[:500]
    if "bad_alloc" in reason or "Failed to allocate memory" in reason:
        return MemoryError(reason)
    return UnsupportedModel(reason or type(error).__name__)
