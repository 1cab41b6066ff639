"""A board behind an SSH server, reached with the user's own keys, configuration and known hosts."""

from __future__ import annotations

import contextlib
import random
import shlex
import socket
import stat
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from edgedeploy.errors import CommandFailed, ConnectError, TransferError, TransportError, TransportTimeout
from edgedeploy.transport import Completed, Progress
from edgedeploy.transport.address import Address
from edgedeploy.transport.interruption import check_interrupted
from edgedeploy.transport.ssh_config import Host, resolve
from edgedeploy.transport.ssh_link import Deadlines, Link, check_alive
from edgedeploy.transport.turns import give_way_if_slow

if TYPE_CHECKING:
    from types import TracebackType

    import paramiko

T = TypeVar("T")

WRITE_BYTES = 32_768  # the largest write that every SFTP server takes
CHUNK_BYTES = 8 * WRITE_BYTES
# More than any report takes; a command that writes without end is not to fill this machine's memory.
MAX_STREAM_BYTES = 256 << 20
UNDER_WAY = 64  # reads or writes, as many as OpenSSH's own sftp sends before it waits for an answer
CONNECT_ATTEMPTS = 3
# Later than this a server is silent or far away, and would be so the next time.
QUICK_REFUSAL_S = 3.0
TICK_S = 0.1
# How long an operation that was told to stop may take before the whole connection is closed under it.
GRACE_S = 2.0


class SshTransport:
    """A Transport over SSH. Only connecting is tried again, for a server that is starting or has too many logins."""

    def __init__(
        self, board: str, address: Address, config_file: Path | None = None, deadlines: Deadlines | None = None
    ) -> None:
        self.board = board
        self._address = address
        self._config_file = config_file
        self._deadlines = deadlines or Deadlines()
        self._link: Link | None = None
        self._sftp: paramiko.SFTPClient | None = None

    def __enter__(self) -> Self:
        hosts = resolve(self._address, self._config_file)
        for attempt in range(1, CONNECT_ATTEMPTS + 1):
            started = time.monotonic()
            try:
                self._link = self._connect(hosts)
                return self
            except ConnectError as error:
                unknown = isinstance(error.__cause__, socket.gaierror)
                if attempt == CONNECT_ATTEMPTS or unknown or time.monotonic() - started > QUICK_REFUSAL_S:
                    raise
                # a server that starts, or has too many logins, needs a moment, and other boards not the same one
                time.sleep(random.uniform(0.5, 1.0) * 0.4 * 2**attempt)  # noqa: S311 - hides nothing
        raise AssertionError("unreachable")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        link, self._link, self._sftp = self._link, None, None
        if link is not None:
            link.close()

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes | None = None,
        check: bool = True,
        tethered: bool = False,
    ) -> Completed:
        """Run `argv`, quoted once for the POSIX shell that the server starts."""
        if tethered and stdin is not None:
            raise ValueError("a tethered command has no input of its own")
        channels: list[paramiko.Channel] = []

        def work() -> Completed:
            channel = self._open_link().transport.open_session(timeout=timeout_s)
            channels.append(channel)
            channel.exec_command(shlex.join(argv))
            if not tethered:
                threading.Thread(target=_feed, args=(channel, stdin or b""), daemon=True).start()

            def read(receive: Callable[[int], bytes]) -> bytes:
                try:
                    return _drain(receive)
                except OverflowError:
                    _close(channel)  # so that the other stream ends too
                    limit = f"{MAX_STREAM_BYTES >> 20} MiB"
                    raise TransferError(self.board, f"`{argv[0]}` wrote more than {limit} and was stopped.") from None

            errors = Future[bytes]()
            threading.Thread(target=_carry, args=(errors, lambda: read(channel.recv_stderr)), daemon=True).start()
            stdout = read(channel.recv)
            stderr = errors.result()  # raises what went wrong there, where the other stream only ended
            return Completed(tuple(argv), channel.recv_exit_status(), stdout, stderr)

        def stop() -> None:
            for channel in channels:
                _close(channel)

        try:
            completed = self._supervise(work, stop, f"`{argv[0]}`", timeout_s, ConnectError)
        finally:
            stop()
        if completed.exit_code < 0 and self._open_link().ended():
            raise ConnectError(self.board, f"the link was lost while `{argv[0]}` ran.")
        if check and completed.exit_code != 0:
            raise CommandFailed(self.board, argv, completed.exit_code, completed.stdout, completed.stderr)
        return completed

    def put(self, source: Path, destination: str, *, timeout_s: float, progress: Progress | None = None) -> None:
        """Copy `source` by SFTP, many writes under way at a time and every one's answer checked."""
        sent = [0]

        def work() -> None:
            with self._open_sftp().open(destination, "wb") as writer:
                writer.set_pipelined(True)
                chunk = reader.read(CHUNK_BYTES)
                while chunk:
                    following = reader.read(CHUNK_BYTES)
                    # an unpipelined write waits for the answers to all writes before it: only the very last is one
                    if not following:
                        last = (len(chunk) - 1) & -WRITE_BYTES
                        writer.write(chunk[:last])
                        sent[0] += last
                        chunk = chunk[last:]
                        writer.set_pipelined(False)
                    writer.write(chunk)
                    _await_answers(writer)
                    sent[0] += len(chunk)
                    chunk = following

        def report(told: int) -> int:
            now = sent[0]
            if progress is not None and now > told:
                progress(now - told)
            return now

        with source.open("rb") as reader:
            self._supervise(work, self._close_sftp, f"copying to {destination}", timeout_s, TransferError, report)

    def get(self, source: str, destination: Path, *, timeout_s: float, max_bytes: int) -> None:
        """Copy `source` by SFTP, many reads under way at a time."""

        def work() -> None:
            received = 0
            with self._open_sftp().open(source, "rb") as reader:
                about = reader.stat()
                if about.st_mode is not None and not stat.S_ISREG(about.st_mode):
                    raise TransferError(self.board, f"{source} is not a file.")
                size = about.st_size or 0
                reader.prefetch(min(size, max_bytes + 1), UNDER_WAY)
                # read on past the size that it had a moment ago: it may have grown, or have none, as under /proc
                while chunk := reader.read(CHUNK_BYTES):
                    received += len(chunk)
                    if max(received, size) > max_bytes:
                        raise TransferError(self.board, f"{source} is longer than {max_bytes} bytes.")
                    writer.write(chunk)

        complete = False
        try:
            with destination.open("wb") as writer:
                self._supervise(work, self._close_sftp, f"copying {source}", timeout_s, TransferError)
            complete = True
        finally:
            if not complete:
                destination.unlink(missing_ok=True)

    def _connect(self, hosts: Sequence[Host]) -> Link:
        link = Link(self.board, self._deadlines)
        complete = False
        started = time.monotonic()

        def tick(told: int) -> int:
            give_way_if_slow(started)
            return told

        try:
            limit_s = self._deadlines.total_s * len(hosts) + GRACE_S
            self._supervise(lambda: link.connect(hosts), link.close, "connecting", limit_s, ConnectError, tick)
            complete = True
        finally:
            if not complete:
                link.close()
        return link

    def _open_link(self) -> Link:
        if self._link is None:
            raise ConnectError(self.board, "the connection is not open.")
        return self._link

    def _open_sftp(self) -> paramiko.SFTPClient:
        import paramiko

        if self._sftp is None:
            channel = self._open_link().transport.open_session()
            try:
                channel.invoke_subsystem("sftp")
            except paramiko.SSHException as error:
                if not self._open_link().alive:
                    raise
                raise TransferError(
                    self.board, "the SSH server offers no SFTP; install its sftp-server (openssh-sftp-server)."
                ) from error
            self._sftp = paramiko.SFTPClient(channel)
        return self._sftp

    def _close_sftp(self) -> None:
        sftp, self._sftp = self._sftp, None
        if sftp is not None:
            _close(sftp)

    def _supervise(
        self,
        work: Callable[[], T],
        stop: Callable[[], None],
        what: str,
        timeout_s: float,
        failure: type[TransportError],
        tick: Callable[[int], int] = lambda told: told,
    ) -> T:
        """Do `work` in a thread that can be given up at the deadline, on silence, and on Ctrl-C.

        `stop` makes the work fail soon. `failure` is raised for whatever goes wrong with the link.
        """
        import paramiko

        future = Future[T]()
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        deadline = time.monotonic() + timeout_s
        told = 0
        finished = False
        try:
            threading.Thread(target=_carry, args=(future, work), name=f"ssh-{self.board}", daemon=True).start()
            while not done.wait(TICK_S):
                check_interrupted()
                told = tick(told)
                if time.monotonic() > deadline:
                    raise TransportTimeout(self.board, f"{what} did not end within {timeout_s:g} s.")
                if self._link is not None:
                    check_alive(self._link, self.board, what, self._deadlines)
            finished = True
            result = future.result()
            tick(told)
            return result
        except (paramiko.SSHException, EOFError, OSError) as error:
            self._close_sftp()
            raise failure(self.board, self._failure_text(what, error)) from error
        finally:
            if not finished:
                self._abandon(stop, done)

    def _abandon(self, stop: Callable[[], None], done: threading.Event) -> None:
        # in a thread: closing a channel sends a message, which waits where the link is clogged
        threading.Thread(target=stop, daemon=True).start()
        if not done.wait(GRACE_S) and self._link is not None:
            self._link.close()

    def _failure_text(self, what: str, error: Exception) -> str:
        # an end of file is what a channel says first, and its connection a moment later
        if self._link is not None and (self._link.ended() if isinstance(error, EOFError) else not self._link.alive):
            return f"the link was lost during {what}."
        if isinstance(error, OSError):
            reason = error.strerror or str(error) or type(error).__name__
            if reason == "Failure":  # all that SFTP has to say of a full disk
                reason = "the board gives no reason; its disk may be full"
            return f"{what} failed: {reason}."
        return f"{what} failed: {str(error) or type(error).__name__}."


def _carry(future: Future[T], work: Callable[[], T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
        future.set_exception(error)


def _await_answers(writer: Any) -> None:
    """Wait for the answers to the oldest writes until no more than UNDER_WAY are open.

    paramiko itself, once a hundred are open, waits for all of them, and a long link runs dry meanwhile: at 100 Mbit/s
    and 40 ms that costs an eighth of the time. Its list of open writes is its own, so that no stub has it.
    """
    while len(writer._reqs) > UNDER_WAY:
        writer.sftp._read_response(writer._reqs.popleft())


def _close(channel: paramiko.Channel | paramiko.SFTPClient) -> None:
    import paramiko

    # on a link that is gone the message that closes it cannot be sent, and need not be
    with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
        channel.close()


def _drain(receive: Callable[[int], bytes]) -> bytes:
    pieces = []
    received = 0
    while piece := receive(1 << 16):
        received += len(piece)
        if received > MAX_STREAM_BYTES:
            raise OverflowError
        pieces.append(piece)
    return b"".join(pieces)


def _feed(channel: paramiko.Channel, data: bytes) -> None:
    import paramiko

    try:
        channel.sendall(data)
        channel.shutdown_write()
    except (paramiko.SSHException, EOFError, OSError):
        pass  # a command need not read its input; that the link is lost is found by whoever waits for it
