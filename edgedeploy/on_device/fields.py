"""Read the small text files by which a board tells its state, below a root that tests can replace."""

from __future__ import annotations

import glob
import os
import re

_MAX_BYTES = 1 << 20


def read_text(root: str, path: str) -> str | None:
    """Return the file's text without its end, None where it cannot be read (absent, forbidden, sensor asleep)."""
    try:
        with open(os.path.join(root, path), "rb") as file:
            return file.read(_MAX_BYTES).decode("utf-8", "replace").strip("\0 \t\r\n")
    except OSError:
        return None


def read_number(root: str, path: str) -> float | None:
    """Return the file's number, None where it cannot be read or is none."""
    text = read_text(root, path) or ""
    return float(text) if re.match(r"-?\d+(\.\d*)?$", text) else None


def find(root: str, pattern: str) -> list[str]:
    """Return the paths below `root` that match, relative to it, in the order a person would number them."""
    found = [os.path.relpath(path, root) for path in glob.glob(os.path.join(glob.escape(root), pattern))]
    return sorted(found, key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)])


def run_tool(root: str, name: str, *arguments: str) -> str | None:
    """Return what a board's own tool prints, None where it is not there, fails or hangs."""
    for folder in ("usr/bin", "usr/local/bin", "usr/sbin", "opt/vc/bin", "bin"):
        path = os.path.join(root, folder, name)
        if os.access(path, os.X_OK):
            break
    else:
        return None
    import subprocess  # only here: reading files, which every job does, is not to load it

    try:
        done = subprocess.run(
            [path, *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=2,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None
