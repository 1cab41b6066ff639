"""Runs an agent and kills it, as a loss of power would, at a call of os: `FUNCTION:ENDING:WHEN:NTH`.

With `:SIGNAL` after it, it is sent that signal instead.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from typing import Any


def main() -> None:
    function, ending, when, nth, *named = sys.argv[1].split(":")
    number = signal.Signals[named[0]] if named else signal.SIGKILL
    real, calls = getattr(os, function), 0

    def deadly(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        paths = [str(one) for one in arguments if isinstance(one, str)]
        hit = bool(paths) and paths[-1].endswith(ending)
        calls += hit
        if hit and calls == int(nth) and when == "before":
            os.kill(os.getpid(), number)
        result = real(*arguments, **options)
        if hit and calls == int(nth):
            os.kill(os.getpid(), number)
        return result

    setattr(os, function, deadly)
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
