"""Makes this machine a board, so that the whole road runs without any other."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from edgedeploy.errors import CommandFailed, TransferError, TransportTimeout
from edgedeploy.transport import Completed, Progress
from edgedeploy.transport.interruption import check_interrupted

if TYPE_CHECKING:
    from types import TracebackType

CHUNK_BYTES = 1 << 20
TICK_S = 0.2


class LocalTransport:
    """A Transport whose board is this machine; commands start in the home folder, as they do after a login."""

    def __init__(self, board: str) -> None:
        self.board = board

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes | None = None,
        check: bool = True,
        tethered: bool = False,
    ) -> Completed:
        """Run `argv` in a session of its own, which is killed whole at the deadline or on any interruption."""
        if tethered and stdin is not None:
            raise ValueError("a tethered command has no input of its own")
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE if tethered or stdin is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=_home(),
                start_new_session=True,
            )
        except OSError as error:
            # what a shell says, so that a missing program is the same finding on every board
            code = 127 if error.errno == errno.ENOENT else 126
            return self._completed(argv, code, b"", f"{argv[0]}: {error.strerror}".encode(), check)
        tether = process.stdin
        if tethered:
            process.stdin = None  # communicate() would close it at once
        try:
            stdout, stderr = self._wait(process, argv[0], stdin, timeout_s)
        finally:
            if process.poll() is None:
                _kill_session(process)
            for stream in (tether, process.stdout, process.stderr):
                if stream is not None:
                    _close_quietly(stream)
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        return self._completed(argv, code, stdout, stderr, check)

    def _wait(
        self, process: subprocess.Popen[bytes], name: str, stdin: bytes | None, timeout_s: float
    ) -> tuple[bytes, bytes]:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return process.communicate(stdin, timeout=max(0.0, min(TICK_S, deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                stdin = None  # what is left of it is known to the process object
                check_interrupted()
            if time.monotonic() >= deadline:
                raise TransportTimeout(self.board, f"`{name}` did not end within {timeout_s:g} s and was killed.")

    def _completed(self, argv: Sequence[str], code: int, stdout: bytes, stderr: bytes, check: bool) -> Completed:
        if check and code != 0:
            raise CommandFailed(self.board, argv, code, stdout, stderr)
        return Completed(tuple(argv), code, stdout, stderr)

    def put(self, source: Path, destination: str, *, timeout_s: float, progress: Progress | None = None) -> None:
        """Copy `source`; a missing folder or a full disk is a TransferError."""
        deadline = time.monotonic() + timeout_s
        with source.open("rb") as reader:
            try:
                with (_home() / destination).open("wb") as writer:
                    while chunk := reader.read(CHUNK_BYTES):
                        writer.write(chunk)
                        if progress is not None:
                            progress(len(chunk))
                        self._check_deadline(deadline, destination, timeout_s)
            except OSError as error:
                raise TransferError(self.board, f"cannot write {destination}: {error.strerror or error}.") from error

    def get(self, source: str, destination: Path, *, timeout_s: float, max_bytes: int) -> None:
        """Copy `source` to `destination`, refusing anything longer than `max_bytes`."""
        deadline = time.monotonic() + timeout_s
        complete = False
        try:
            with destination.open("wb") as writer:
                try:
                    self._read(source, writer, deadline, timeout_s, max_bytes)
                except OSError as error:
                    raise TransferError(self.board, f"cannot read {source}: {error.strerror or error}.") from error
            complete = True
        finally:
            if not complete:
                destination.unlink(missing_ok=True)

    def _read(self, source: str, writer: BinaryIO, deadline: float, timeout_s: float, max_bytes: int) -> None:
        received = 0
        with (_home() / source).open("rb") as reader:
            while chunk := reader.read(min(CHUNK_BYTES, max_bytes + 1)):
                received += len(chunk)
                if received > max_bytes:
                    raise TransferError(self.board, f"{source} is longer than {max_bytes} bytes.")
                writer.write(chunk)
                self._check_deadline(deadline, source, timeout_s)

    def _check_deadline(self, deadline: float, path: str, timeout_s: float) -> None:
        check_interrupted()
        if time.monotonic() > deadline:
            raise TransportTimeout(self.board, f"{path} was not copied within {timeout_s:g} s.")


def _home() -> Path:
    home = Path.home()
    return home if home.is_dir() else Path("/")


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _close_quietly(stream: object) -> None:
    try:
        stream.close()  # type: ignore[attr-defined]
    except BrokenPipeError:
        pass  # bytes the command never read
