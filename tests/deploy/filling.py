"""Runs an agent on a disk that fills up when it comes to a certain place, and has room again for the report."""

from __future__ import annotations

import builtins
import os
import resource
import runpy
import sys
from typing import Any

PLACES = {
    "the manifest": ("link", "probe.npz", 500),
    "the journal": ("replace", "releases/highest", 40),
    "the probation": ("replace", "/current", 150),
}


def main() -> None:
    function, ending, most_bytes = PLACES[sys.argv[1]]
    real, real_open = getattr(os, function), builtins.open
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def filling(*arguments: Any, **options: Any) -> Any:
        result = real(*arguments, **options)
        if str(arguments[-1]).endswith(ending):
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
        return result

    def opening(path: Any, *arguments: Any, **options: Any) -> Any:
        if "report.json" in str(path):
            resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
        return real_open(path, *arguments, **options)

    setattr(os, function, filling)
    setattr(builtins, "open", opening)  # noqa: B010 - what a type checker would not allow
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
