"""Runs one adb command for as long as it may take: input fed, both streams drained and bounded, ended when told."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import IO

from edgedeploy.errors import ConnectError, TransferError, TransportTimeout
from edgedeploy.transport.adb_server import AdbServer

CHUNK_BYTES = 1 << 18
MAX_STREAM_BYTES = 64 << 20
TICK_S = 0.1
# A transfer in which nothing moves for so long will not move any more.
SILENCE_S = 30.0
# How long what adb has read may still take to arrive here after it ended.
GRACE_S = 5.0

Sink = Callable[[bytes], object]


@dataclass(slots=True)
class _Stream:
    """What came of one stream; `read` counts its bytes, those that a sink took included."""

    limit: int
    content: bytearray = field(default_factory=bytearray)
    read: int = 0
    failure: OSError | None = None

    def drain(self, pipe: IO[bytes], sink: Sink | None, overflow: Callable[[], None]) -> None:
        while chunk := pipe.read1(CHUNK_BYTES):  # type: ignore[attr-defined]
            self.read += len(chunk)
            if self.read > self.limit:
                overflow()
                return
            if self.failure is None:
                try:
                    (sink or self.content.extend)(chunk)
                except OSError as error:
                    self.failure = error
                    overflow()
                    return


@dataclass(frozen=True, slots=True)
class Conversation:
    """What adb said until it ended by itself; `sent` bytes of the input it took."""

    stdout: bytes
    stderr: bytes
    sent: int


def converse(
    server: AdbServer,
    arguments: Sequence[str],
    *,
    what: str,
    timeout_s: float,
    deadline: float,
    chunks: Iterable[bytes] | None = None,
    tethered: bool = False,
    sink: Sink | None = None,
    max_bytes: int = MAX_STREAM_BYTES,
    too_long: str = "",
    silence_s: float | None = None,
    tick: Callable[[int], None] | None = None,
) -> Conversation:
    """Run `adb ARGUMENTS`, feeding it `chunks`, and wait for its end, which has to come by `deadline` (monotonic).

    `timeout_s` is what errors say was allowed. `sink` gets standard output instead of keeping it, at most `max_bytes`;
    `tick` gets the bytes sent so far. With `tethered` its input stays open until it ends. Raises TransportTimeout at
    the deadline and after `silence_s` in which nothing moved, TransferError for more output than that, OSError of the
    sink, and whatever `tick` raises.
    """
    fed = tethered or chunks is not None
    try:
        process = subprocess.Popen(
            [server.binary, *arguments],
            stdin=subprocess.PIPE if fed else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=server.environment,
            start_new_session=True,  # Ctrl-C is ours to handle, and a server must not die of it
        )
    except OSError as error:
        raise ConnectError(server.board, f"{server.binary} does not run: {error.strerror}.") from error
    assert process.stdout is not None
    assert process.stderr is not None
    sent = [0]
    overflow = threading.Event()

    def overflowed() -> None:
        overflow.set()
        process.kill()

    outputs = (_Stream(max_bytes), _Stream(MAX_STREAM_BYTES))
    threads = [
        threading.Thread(target=stream.drain, args=(pipe, into, overflowed), daemon=True)
        for stream, pipe, into in zip(outputs, (process.stdout, process.stderr), (sink, None), strict=True)
    ]
    if chunks is not None:
        assert process.stdin is not None
        threads.append(threading.Thread(target=_feed, args=(process.stdin, chunks, sent), daemon=True))
    for thread in threads:
        thread.start()
    try:
        _wait(process, server, what, deadline, timeout_s, silence_s, lambda: sent[0] + outputs[0].read, sent, tick)
        for thread in threads[:2]:
            thread.join(GRACE_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if tethered and process.stdin is not None:
            process.stdin.close()
        for thread in threads:
            thread.join(GRACE_S)
        process.stdout.close()
        process.stderr.close()
    for stream in outputs:
        if stream.failure is not None:
            raise stream.failure
    if overflow.is_set():
        raise TransferError(server.board, too_long or f"{what} wrote more than {MAX_STREAM_BYTES >> 20} MiB; given up.")
    if tick is not None:
        tick(sent[0])
    return Conversation(bytes(outputs[0].content), bytes(outputs[1].content), sent[0])


def _wait(
    process: subprocess.Popen[bytes],
    server: AdbServer,
    what: str,
    deadline: float,
    timeout_s: float,
    silence_s: float | None,
    moved: Callable[[], int],
    sent: Sequence[int],
    tick: Callable[[int], None] | None,
) -> None:
    seen, seen_at = 0, time.monotonic()
    while True:
        try:
            process.wait(max(0.0, min(TICK_S, deadline - time.monotonic())))
            return
        except subprocess.TimeoutExpired:
            server.tick()
        now = time.monotonic()
        if tick is not None:
            tick(sent[0])
        if now >= deadline:
            raise TransportTimeout(server.board, f"{what} did not end within {timeout_s:g} s and was given up.")
        if moved() != seen:
            seen, seen_at = moved(), now
        elif silence_s is not None and now - seen_at > silence_s:
            raise TransportTimeout(server.board, f"nothing moved for {silence_s:g} s during {what}; is the link cut?")


def _feed(pipe: IO[bytes], chunks: Iterable[bytes], sent: list[int]) -> None:
    try:
        for chunk in chunks:
            pipe.write(chunk)
            pipe.flush()
            sent[0] += len(chunk)
    except (BrokenPipeError, ValueError):
        pass  # a command need not read its input
    finally:
        try:
            pipe.close()
        except BrokenPipeError:
            pass
