"""A phone behind adb: Android's own binary does the talking, and its end is told from the end of a command."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from edgedeploy.errors import CommandFailed, ConnectError, TransferError, TransportError, TransportTimeout
from edgedeploy.transport import Completed, Progress
from edgedeploy.transport.adb_client import CHUNK_BYTES, MAX_STREAM_BYTES, SILENCE_S, Conversation, Sink, converse
from edgedeploy.transport.adb_devices import PASSING, Listed, find, is_network, matching, parse_devices
from edgedeploy.transport.adb_server import AdbServer
from edgedeploy.transport.adb_shell import SHORT, Ended, ended_v1, ended_v2, input_v1, script_v1, script_v2
from edgedeploy.transport.interruption import check_interrupted
from edgedeploy.transport.turns import give_way_if_slow

if TYPE_CHECKING:
    from types import TracebackType

# How long a phone may take to get from offline to ready, and a new adb server to see what is plugged in.
READY_S = 6.0
FRESH_S = 3.0
POLL_S = 0.2
# How long a phone may take for a command after one to which it never answered, such as what clears up behind that.
AFTER_SILENCE_S = 5.0

# An adb server does not always survive that one phone is connected and disconnected by several at once; by server and
# phone, for one that does not answer must not keep others from being connected.
_DIALLING: dict[tuple[str, str], threading.Lock] = {}

# dash calls a missing folder otherwise than every other shell.
_WRITE = 'case $1 in */*) [ -d "${1%/*}/" ] || { echo "No such file or directory" >&2; exit 1; };; esac; exec cat >"$1"'


class AdbTransport:
    """A Transport by the adb binary; `wanted` is a serial, `HOST:PORT`, or a qualifier such as `usb:1-4`.

    Files go through the shell and not by `adb push`, which makes missing folders, keeps the host's times and modes,
    and says of a file that did not fit only that it failed.
    """

    def __init__(
        self,
        board: str,
        wanted: str,
        server_port: int | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        legacy: bool = False,
        ready_s: float = READY_S,
        silence_s: float = SILENCE_S,
    ) -> None:
        """`legacy` has the phone treated as one without shell_v2, whatever it says."""
        self.board = board
        self._wanted = wanted
        self._server = AdbServer(board, server_port, environment, tick=self._tick)
        self._legacy = legacy
        self._ready_s = ready_s
        self._silence_s = silence_s
        self._serial: str | None = None
        self._unheard_since: float | None = None
        self._went_silent = False

    def __enter__(self) -> Self:
        self._unheard_since = time.monotonic()
        self._server.acquire()
        try:
            self._serial = self._connect()
            self._legacy = self._legacy or "shell_v2" not in self._features()
        except BaseException:
            self._serial = None
            self._server.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._serial = None
        self._server.release()

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes | None = None,
        check: bool = True,
        tethered: bool = False,
    ) -> Completed:
        """Run `argv`, quoted once for the phone's shell. TransferError where a stream is longer than 64 MiB."""
        if tethered and stdin is not None:
            raise ValueError("a tethered command has no input of its own")
        chunks = None if stdin is None else _slices(stdin)
        ended = self._run(argv, timeout_s, chunks, f"`{argv[0]}`", tethered=tethered)
        if check and ended.exit_code != 0:
            raise CommandFailed(self.board, argv, ended.exit_code, ended.stdout, ended.stderr)
        return Completed(tuple(argv), ended.exit_code, ended.stdout, ended.stderr)

    def put(self, source: Path, destination: str, *, timeout_s: float, progress: Progress | None = None) -> None:
        """Copy `source`; what keeps the phone from writing it is a TransferError with the phone's own words."""
        told = 0

        def tick(sent: int) -> None:
            nonlocal told
            now, told = sent - told, sent
            if progress is not None and now > 0:
                progress(now)

        with source.open("rb") as reader:
            chunks = iter(lambda: reader.read(CHUNK_BYTES), b"")
            ended = self._run(
                ["sh", "-c", _WRITE, "sh", destination],
                timeout_s,
                chunks,
                f"copying to {destination}",
                tick=tick,
                silence_s=self._silence_s,
            )
        if ended.exit_code != 0:
            raise TransferError(self.board, f"cannot write {_printable(destination)}: {_last_words(ended.stderr)}.")

    def get(self, source: str, destination: Path, *, timeout_s: float, max_bytes: int) -> None:
        """Copy `source`, giving up as soon as more than `max_bytes` of it came."""
        what, too_long = f"copying {source}", f"{source} is longer than {max_bytes} bytes."
        complete = False
        try:
            with destination.open("wb") as writer:
                ended = self._run(
                    ["cat", "--", source],
                    timeout_s,
                    None,
                    what,
                    sink=writer.write,
                    max_bytes=max_bytes,
                    too_long=too_long,
                    silence_s=self._silence_s,
                )
            if ended.exit_code != 0:
                raise TransferError(self.board, f"cannot read {_printable(source)}: {_last_words(ended.stderr)}.")
            complete = True
        except OSError as error:
            raise TransferError(self.board, f"cannot write {destination}: {error.strerror or error}.") from error
        finally:
            if not complete:
                destination.unlink(missing_ok=True)

    def _run(
        self,
        argv: Sequence[str],
        timeout_s: float,
        chunks: Iterator[bytes] | None,
        what: str,
        *,
        tethered: bool = False,
        sink: Sink | None = None,
        max_bytes: int = MAX_STREAM_BYTES,
        too_long: str = "",
        silence_s: float | None = None,
        tick: Callable[[int], None] | None = None,
    ) -> Ended:
        """Run a command to its end. Raises TransportError for whatever goes wrong with the link."""
        if self._went_silent:
            timeout_s = min(timeout_s, AFTER_SILENCE_S)
        deadline = time.monotonic() + timeout_s
        token = secrets.token_hex(16)

        def talk(*arguments: str, **options: Any) -> Conversation:
            self._check_server()
            target = ["-s", self._open_serial(), *arguments]
            options |= {"what": what, "timeout_s": timeout_s, "deadline": deadline, "silence_s": silence_s}
            try:
                return converse(self._server, target, **options)
            except TransportTimeout:
                self._went_silent = silence_s is not None  # else it may be the command that takes long
                raise

        if not self._legacy:
            script = script_v2(argv, token)
            said = talk(
                *("shell", "-T", script),
                chunks=chunks,
                tethered=tethered,
                sink=sink,
                max_bytes=max_bytes,
                too_long=too_long,
                tick=tick,
            )
            ended = ended_v2(said.stdout, said.stderr, token)
        else:
            sent = None
            if chunks is not None:
                sent = talk("exec-in", input_v1(token), chunks=chunks, tick=tick).sent
            script = script_v1(argv, token, input_bytes=sent, tethered=tethered)
            limit = min(max_bytes, MAX_STREAM_BYTES) + MAX_STREAM_BYTES
            said = talk("exec-out", script, tethered=tethered, max_bytes=limit, too_long=too_long)
            ended = ended_v1(said.stdout, token)
            if ended is not None and ended.exit_code == SHORT:
                raise TransferError(self.board, f"the input of {what} did not arrive whole: is the phone's disk full?")
            if ended is not None and len(ended.stdout) > max_bytes:
                raise TransferError(self.board, too_long)
            if ended is not None and sink is not None:
                sink(ended.stdout)
        if ended is None:
            raise self._failure(what, said)
        self._unheard_since, self._went_silent = None, False
        return ended

    def _failure(self, what: str, said: Conversation) -> TransportError:
        """Why a command did not come to its end: what the phone's state tells, or else what adb says."""
        try:
            self._check_server()
            find(self.board, self._wanted, self._listed())
        except TransportError as error:
            return type(error)(
                self.board, f"the link was lost during {what}: {str(error).removeprefix(self.board + ': ')}"
            )
        return ConnectError(self.board, f"the link was lost during {what}: adb says {_last_words(said.stderr)!r}.")

    def _check_server(self) -> None:
        # adb would start another one by itself, and nobody would end that
        if not self._server.answers():
            raise ConnectError(self.board, f"the adb server at {self._server.spec} has ended; run the command again.")

    def _connect(self) -> str:
        """Wait until the phone is ready; its serial, or where that is not unique what else names it."""
        answer = ""
        network = is_network(self._wanted)
        if network:
            answer = self._dial()
        deadline = time.monotonic() + self._ready_s
        seen_by = time.monotonic() + (FRESH_S if self._server.fresh and not network else 0.0)
        again = network
        while True:
            listed = self._listed()
            found = matching(self._wanted, listed)
            passing = any(one.state in PASSING for one in found)
            now = time.monotonic()
            if now > deadline or not (passing or (not found and now < seen_by)):
                break
            if again and passing and now > deadline - self._ready_s / 2:
                answer = self._dial(again=True)
                again = False
            self._tick()
            time.sleep(POLL_S)  # a stream of changes would be one more process to end, for a wait of seconds
        if network and not found:
            raise ConnectError(
                self.board,
                f"nobody answers adb at {self._wanted} ({_one_line(answer)}): check that the phone listens there "
                "(`adb tcpip 5555`, or wireless debugging) and that the network reaches it.",
            )
        phone = find(self.board, self._wanted, listed)
        unique = sum(one.serial == phone.serial for one in listed) == 1
        return phone.serial if unique else self._wanted

    def _dial(self, *, again: bool = False) -> str:
        """Have adb connect unless it is; adb tells in words alone, and takes long where nobody answers."""
        lock = _DIALLING.setdefault((self._server.spec, self._wanted), threading.Lock())
        while not lock.acquire(timeout=POLL_S):
            self._tick()
        try:
            if any(one.state == "device" for one in matching(self._wanted, self._listed())):
                return ""
            if again:
                # a connection from before the phone restarted stays offline for ever
                self._server.call("disconnect", self._wanted)
            return self._call_connect()
        finally:
            lock.release()

    def _call_connect(self) -> str:
        try:
            return self._server.call("connect", self._wanted, timeout_s=2 * self._ready_s)[1].strip()
        except TransportTimeout:
            return "no answer"

    def _tick(self) -> None:
        """Stop where Ctrl-C says so, and until the phone has answered a command, keep no other board waiting."""
        check_interrupted()
        if self._unheard_since is not None:
            give_way_if_slow(self._unheard_since)

    def _listed(self) -> tuple[Listed, ...]:
        return parse_devices(self._server.call("devices", "-l")[1])

    def _features(self) -> set[str]:
        code, said = self._server.call("-s", self._open_serial(), "features")
        if code != 0:
            raise ConnectError(self.board, f"the phone does not say what it can do: adb says {_one_line(said)!r}.")
        return set(said.split())

    def _open_serial(self) -> str:
        if self._serial is None:
            raise ConnectError(self.board, "the connection is not open.")
        return self._serial


def _slices(data: bytes) -> Iterator[bytes]:
    return (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))


def _last_words(stderr: bytes) -> str:
    return _one_line(stderr.decode("utf-8", "replace")) or "no reason given"


def _one_line(text: str) -> str:
    """The last lines as one, since a shell's very last may say no more than that something failed."""
    return _printable("; ".join(line.strip() for line in text.strip().splitlines()[-3:]))[:300]


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)
