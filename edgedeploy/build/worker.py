"""One process that builds: it takes jobs from the process that keeps the results, and ends with it."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from edgedeploy.build.identity import Request
from edgedeploy.build.job import Bench


def main(descriptor: int) -> None:
    """Do what comes over the connection, `Ground` first, then pairs of a job and its folder, until it closes."""
    os.set_inheritable(descriptor, False)
    link = Connection(descriptor)
    jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(link, jobs), daemon=True).start()
    bench = Bench(jobs.get())

    def say(text: str, request: Request | None = None) -> None:
        link.send(("at", (text, request.id if request else None)))

    while True:
        job, folder = jobs.get()
        try:
            for outcome in bench.do(job, Path(folder), say):
                link.send(("outcome", outcome))
        except Exception as error:  # noqa: BLE001 - told where it can be shown, with its traceback
            link.send(("error", _portable(error)))
        else:
            link.send(("done", None))


def _listen(link: Connection, jobs: queue.SimpleQueue[Any]) -> None:
    """Hear at once when whoever gives the jobs is gone, and take along what was started here."""
    try:
        while True:
            jobs.put(link.recv())
    except (EOFError, OSError):
        os.killpg(os.getpgid(0), signal.SIGKILL)


def _portable(error: Exception) -> Exception:
    """The error as another process can raise it, with the traceback of this one."""
    told = "".join(traceback.format_exception(error))
    try:
        copy: Exception = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    except Exception:  # noqa: BLE001 - whatever a stranger's exception does to being copied
        copy = RuntimeError(repr(error))
    copy.add_note(f"In a worker process:\n{told}")
    return copy


if __name__ == "__main__":
    main(int(sys.argv[1]))
