"""Where releases lie on this board, which links name them, and whether a process that died left work there.

Every job asks that last question, so that this module loads little.
"""

from __future__ import annotations

import os
import re

from .workspace import left_workspaces

CURRENT, PREVIOUS, AGENT = "current", "previous", "agent"
STAGING = ".new-"
NUMBER = re.compile(r"[1-9][0-9]{0,9}\Z")

_TARGET = re.compile(r"releases/([1-9][0-9]{0,9})/?\Z")


def releases_folder(root: str, *parts: str) -> str:
    """Return the path of something in the folder of all releases."""
    return os.path.join(root, "releases", *parts)


def release_folder(root: str, number: int) -> str:
    """Return where a release lies, or would."""
    return releases_folder(root, str(number))


def journal_path(root: str) -> str:
    """Return where an activation under way is written down."""
    return releases_folder(root, "journal.json")


def linked(root: str, link: str) -> int | None:
    """Return the number of the release that a link names; None where there is no such link or release."""
    try:
        match = _TARGET.match(os.readlink(os.path.join(root, link)))
    except OSError:
        return None
    number = int(match.group(1)) if match else None
    return number if number is not None and os.path.isdir(release_folder(root, number)) else None


def numbers(root: str) -> list[int]:
    """Return the numbers of all releases that lie here, in order."""
    try:
        names = os.listdir(releases_folder(root))
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if NUMBER.match(name))


def leavings(root: str) -> list[str]:
    """Return the paths of what processes that died left among the releases, but for what a journal speaks of."""
    try:
        names = os.listdir(releases_folder(root))
    except FileNotFoundError:
        return []
    linked_to = {str(linked(root, link)) for link in (CURRENT, PREVIOUS)}
    found = [
        releases_folder(root, name)
        for name in names
        if name.startswith(STAGING) or name.endswith(".part") or (NUMBER.match(name) and name not in linked_to)
    ]
    links = [os.path.join(root, f".{link}.next") for link in (CURRENT, PREVIOUS, AGENT)]
    return found + [path for path in links if os.path.lexists(path)]


def unsettled(root: str) -> bool:
    """Return whether there is anything here that a process has left which is at work or has died."""
    return os.path.lexists(journal_path(root)) or bool(leavings(root) or left_workspaces(root))
