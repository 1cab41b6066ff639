"""How a module of this package is run in a Python process of its own, wherever the package lies."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def command(module: str, *arguments: str) -> list[str]:
    """The argv that runs a module of the package; what lies in the current folder is not imported."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(**changes: str) -> dict[str, str]:
    """The environment for `command`, with this very package first on the path."""
    root = str(Path(__file__).parent.parent)
    search = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": search, **changes}
