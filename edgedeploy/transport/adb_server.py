"""Calls the adb binary with a deadline, and leaves no adb server behind that was not there before."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from edgedeploy.errors import ConnectError, TransportTimeout
from edgedeploy.transport.interruption import check_interrupted

DEFAULT_PORT = 5037
START_S = 30.0
CALL_S = 20.0
TICK_S = 0.1
MAX_ANSWER_BYTES = 1 << 20


def find_adb(environment: Mapping[str, str] = os.environ) -> str | None:
    """The adb on the PATH, or that of the Android SDK; None where there is neither."""
    kits = [environment.get(name) for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT")]
    places = [environment.get("PATH", os.defpath), *(f"{kit}/platform-tools" for kit in kits if kit)]
    return shutil.which("adb", path=os.pathsep.join(places))


class AdbServer:
    """The adb server through which a phone is reached: one at the default port, a private one, or a socket's.

    One that does not run is started, and ended by the last process of edgedeploy that used it; one that was there
    is left as it is. All errors name `board`.
    """

    def __init__(
        self,
        board: str,
        port: int | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        tick: Callable[[], None] = check_interrupted,
    ) -> None:
        """`tick` is called ten times a second while adb is waited for; what it raises ends the waiting."""
        self.board = board
        self.tick = tick
        self.environment = dict(os.environ if environment is None else environment)
        if port is not None:
            self.environment.pop("ADB_SERVER_SOCKET", None)
            self.environment["ANDROID_ADB_SERVER_PORT"] = str(port)
        self.fresh = False
        self._binary: str | None = None
        self._lock: int | None = None

    @property
    def binary(self) -> str:
        """The adb that `find_adb` finds. Raises ConnectError where there is none."""
        if self._binary is None:
            self._binary = find_adb(self.environment)
        if self._binary is None:
            raise ConnectError(
                self.board,
                "phones are reached by adb, and there is none on the PATH: install it (Debian: adb) or set "
                "ANDROID_HOME to the folder of the Android SDK.",
            )
        return self._binary

    @property
    def spec(self) -> str:
        """Where the server listens, as adb writes it: `tcp:localhost:5037`, `localfilesystem:/path`."""
        given = self.environment.get("ADB_SERVER_SOCKET")
        return given or f"tcp:localhost:{self.environment.get('ANDROID_ADB_SERVER_PORT') or DEFAULT_PORT}"

    def is_same(self, other: AdbServer) -> bool:
        """Whether both are one server, however its address is written."""
        ours, theirs = _endpoint(self.spec), _endpoint(other.spec)
        return self.spec == other.spec or (ours == theirs and ours[1] is not None)

    def acquire(self) -> None:
        """Have a server run until `release`. Raises ConnectError and TransportTimeout."""
        binary = self.binary
        lock = _open_lock(self.spec, self.environment)
        try:
            self._wait_for(lock, fcntl.LOCK_SH)
            if not self.answers():
                self.fresh = True
                self._start_once(binary, lock)
        except BaseException:
            self._let_go(lock)
            raise
        self._lock = lock

    def release(self) -> None:
        """End the server if edgedeploy started it and nobody else of ours uses it."""
        lock, self._lock = self._lock, None
        if lock is not None:
            self._let_go(lock)

    def call(self, *arguments: str, timeout_s: float = CALL_S) -> tuple[int, str]:
        """Run a short adb command; its exit code, and what it said on either stream, at most 1 MiB.

        Raises TransportTimeout and ConnectError.
        """
        deadline = time.monotonic() + timeout_s
        with tempfile.TemporaryFile() as said:
            try:
                # A file and not a pipe: a server that this very command starts would hold a pipe open for ever.
                process = subprocess.Popen(
                    [self.binary, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    env=self.environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise ConnectError(self.board, f"{self.binary} does not run: {error.strerror}.") from error
            try:
                while process.poll() is None:
                    if time.monotonic() >= deadline:
                        command = f"adb {' '.join(arguments)}"
                        raise TransportTimeout(
                            self.board, f"`{command}` did not end within {timeout_s:g} s; `adb kill-server` may help."
                        )
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(TICK_S)
                    self.tick()
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            said.seek(0)
            return process.returncode, said.read(MAX_ANSWER_BYTES).decode("utf-8", "replace")

    def _start_once(self, binary: str, lock: int) -> None:
        """Start a server unless another of ours is quicker: of several that adb is told to start at once, most fail."""
        starting = _open_lock(self.spec, self.environment, "-start")
        try:
            self._wait_for(starting, fcntl.LOCK_EX)
            if not self.answers():
                os.pwrite(lock, b"started", 0)
                self._start(binary)
        finally:
            os.close(starting)

    def _wait_for(self, lock: int, kind: int) -> None:
        while True:
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                self.tick()
                time.sleep(TICK_S)  # to wait in flock itself would keep Ctrl-C from this thread

    def _start(self, binary: str) -> None:
        code, said = self.call("start-server", timeout_s=START_S)
        if code != 0 or not self.answers():
            last = said.strip().rpartition("\n")[2][:300]
            raise ConnectError(
                self.board, f"the adb server cannot be started at {self.spec} by {binary}: {last or 'it says nothing'}."
            )

    def answers(self) -> bool:
        """Whether a server listens; True where only adb knows how to reach it."""
        family, address = _endpoint(self.spec)
        if address is None:
            return True
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.settimeout(CALL_S)
                probe.connect(address)
            return True
        except OSError:
            return False

    def _let_go(self, lock: int) -> None:
        try:
            with contextlib.suppress(OSError, ConnectError, TransportTimeout):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.pread(lock, 16, 0) == b"started":
                    if self.answers():
                        self.call("kill-server")
                    os.ftruncate(lock, 0)
        finally:
            os.close(lock)


def _open_lock(spec: str, environment: Mapping[str, str], what: str = "") -> int:
    """Shared by all who use the server of that address, or start it; it holds a word where one of us started it."""
    home = environment.get("HOME") or str(Path.home())
    folder = Path(environment.get("XDG_CACHE_HOME") or f"{home}/.cache") / "edgedeploy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(spec.encode()).hexdigest()[:16]
        return os.open(folder / f"adb-{name}{what}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        # a home that cannot be written to, as some build machines have
        return os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)


def _endpoint(spec: str) -> tuple[socket.AddressFamily, tuple[str, int] | str | None]:
    """Where to knock; None for an address that is not on this machine or not understood."""
    match = re.fullmatch(r"tcp:(?:(?:localhost|127\.0\.0\.1):)?(\d{1,5})", spec)
    if match:
        return socket.AF_INET, ("localhost", int(match[1]))
    if spec.startswith("localfilesystem:"):
        return socket.AF_UNIX, spec.partition(":")[2]
    if spec.startswith("localabstract:"):
        return socket.AF_UNIX, "\0" + spec.partition(":")[2]
    return socket.AF_INET, None
