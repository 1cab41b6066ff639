"""Runs the host's own pip, apt and dpkg, and keeps what they bring, so that nothing is downloaded twice."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgedeploy.board.untrusted import printable
from edgedeploy.errors import DownloadError
from edgedeploy.transport.interruption import check_interrupted

TICK_S = 0.2
TOOL_TIMEOUT_S = 900.0
# What a registry answered, and the lists of packages, hold for a day.
FRESH_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Ended:
    """What a tool of the host left."""

    exit_code: int
    stdout: str
    stderr: str


def cache_folder() -> Path:
    """Where this user's downloads are kept: EDGEDEPLOY_CACHE, else edgedeploy in the cache folder of XDG."""
    named = os.environ.get("EDGEDEPLOY_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "edgedeploy"


@contextmanager
def alone(cache: Path) -> Iterator[None]:
    """Have the cache to oneself among the threads and processes of this machine.

    Boards are visited side by side, and those of one kind want the same files: the first brings them for all.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / "lock").open("w")
    except OSError as error:
        raise DownloadError(
            f"cannot write to {cache}: {error.strerror}; make it writable, or set EDGEDEPLOY_CACHE to a folder that is."
        ) from error
    with lock:  # which is this visit's own: a lock on it keeps out threads as it does processes
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                check_interrupted()
                time.sleep(TICK_S)  # to wait in flock itself would keep Ctrl-C from this thread
        yield


def run_tool(
    argv: Sequence[str], *, environment: Mapping[str, str] | None = None, timeout_s: float = TOOL_TIMEOUT_S
) -> Ended:
    """Run a program of the host to its end. Raises DownloadError where it is not there or does not end."""
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if environment is None else {**os.environ, **environment},
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise DownloadError(f"`{argv[0]}` does not start on this machine: {error.strerror}.") from error
    deadline = time.monotonic() + timeout_s
    with process:
        try:
            while True:
                try:
                    stdout, stderr = process.communicate(timeout=TICK_S)
                    return Ended(process.returncode, stdout, stderr)
                except subprocess.TimeoutExpired:
                    check_interrupted()
                if time.monotonic() > deadline:
                    raise DownloadError(f"`{argv[0]}` did not end within {timeout_s:g} s on this machine.")
        finally:
            if process.poll() is None:
                process.kill()


def last_words(text: str) -> str:
    """The last line of a tool's complaint, cut short and without what could steer a terminal."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = next((line for line in reversed(lines) if line.startswith(("ERROR:", "E:"))), lines[-1] if lines else "")
    return printable(told)
