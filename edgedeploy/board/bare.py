"""A board on which nothing but a POSIX shell runs: files get there, and native runners run there, without the agent."""

from __future__ import annotations

import secrets
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edgedeploy.board.facts import BoardFacts, check_root
from edgedeploy.board.push import HASHED_BYTES_PER_S, PushResult, check_space
from edgedeploy.board.session import COMMAND_TIMEOUT_S, Board, adding_up, fitting_board, probe, transfer_timeout_s
from edgedeploy.board.untrusted import plain
from edgedeploy.errors import BoardError, LeaseError, NoPython, TransferError, TransportError
from edgedeploy.records import Device, DeviceProfile
from edgedeploy.transport import Completed, Transport, open_transport

_LOCKED, _NO_FOLDER, _NO_FILE = 75, 74, 66  # sysexits.h: EX_TEMPFAIL, EX_IOERR, EX_NOINPUT
# A net of a microsecond makes a million a second; all of them come back in one answer.
MAX_ROWS = 1_000_000

_PRESENT = """
cd -- "$1" || exit 1
shift
for file do [ -f "$file" ] && [ ! -L "$file" ] && sha256sum "$file"; done
exit 0
"""

# All are checked before the first gets its name.
_ADMIT = """
cd -- "$1" || exit 1
shift
umask 077
for file do
  expected=${file##*-}
  found=$(sha256sum <"$file") || exit 1
  found=${found%% *}
  [ "$found" = "$expected" ] || { echo "the SHA-256 of $file is $found" >&2; exit 2; }
done
sync
"""

# The runner's own words go to standard error, the file that it may write to standard output. The lock is held by
# whatever has the descriptor, so that it ends with the runner; mksh hands one above 2 on only where it is told to.
_RUN = f"""
root=$1 work=$1/tmp/$2 model=$3 libraries=$4
shift 4
exec 9>>"$root/lock" || exit {_NO_FOLDER}
flock -n 9 9>&9
[ $? -eq 1 ] && exit {_LOCKED}
umask 077
[ -f "$root/objects/sha256/${{model%%.*}}" ] || exit {_NO_FILE}
mkdir "$work" && cd "$work" && ln -s "$root/objects/sha256/${{model%%.*}}" "model.${{model##*.}}" || exit {_NO_FOLDER}
kills() {{ grep '^oom_kill ' /proc/vmstat 2>/dev/null; }}
kills=$(kills)
ORT_DISABLE_TELEMETRY=${{ORT_DISABLE_TELEMETRY:-1}} LD_LIBRARY_PATH=$libraries "$@" >&2 9>&9 &
p=$!
trap 'kill -KILL "$p"; rm -rf "$work"; exit 129' HUP TERM INT
wait "$p"
code=$?
[ "$code" -eq 137 ] && [ "$(kills)" != "$kills" ] && echo 'Out of memory: the kernel killed it' >&2
[ -f rows.csv ] && head -n {MAX_ROWS} rows.csv
cd "$root" && rm -rf "$work"
exit "$code"
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file that must lie on the board: where, below the root, and whether it is to be run."""

    sha256: str
    source: Path
    place: str
    executable: bool = False


class BareBoard:
    """A board that answers and fits its profile, but has no Python; `no_python` says so, with the mend."""

    def __init__(self, transport: Transport, facts: BoardFacts, no_python: NoPython) -> None:
        self.transport = transport
        self.facts = facts
        self.no_python = no_python
        self.root = facts.root

    @property
    def name(self) -> str:
        """What errors call the board."""
        return self.transport.board

    def push(
        self, files: Sequence[Wanted], *, progress: Callable[[int, int], None] | None = None, dry_run: bool = False
    ) -> PushResult:
        """Send what does not lie in its place whole. Raises BoardError, TransferError and TransportError.

        No file gets its final name that the board has not hashed.
        """
        started = time.monotonic()
        total = sum(file.source.stat().st_size for file in files)
        hashing_s = COMMAND_TIMEOUT_S + total / HASHED_BYTES_PER_S
        lying = self._lying([file.place for file in files], hashing_s)
        missing = [file for file in files if lying.get(file.place) != file.sha256]
        present = tuple(file.sha256 for file in files if file not in missing)
        payload = sum(file.source.stat().st_size for file in missing)
        facts = self.facts
        if missing and facts.free_bytes is not None and facts.total_bytes is not None:
            check_space(self.name, self.root, payload, facts.free_bytes, facts.total_bytes)
        if missing and not dry_run:
            self._send(missing, payload, progress, hashing_s)
        return PushResult(tuple(file.sha256 for file in missing), present, payload, time.monotonic() - started)

    def run_runner(
        self, argv: Sequence[str], *, model: str, libraries: str, timeout_s: float
    ) -> tuple[Completed, str, str]:
        """Run a native runner beside the object `model` (`digest.suffix`), linked to as `model.suffix`.

        Returns how it ended, what it said and what it wrote to `rows.csv`. Raises LeaseError where another job holds
        the board, BoardError where nothing can be written or the object is not there, and TransportError.
        """
        command = ["sh", "-c", _RUN, "run", self.root, f"{secrets.token_hex(8)}-native", model, libraries, *argv]
        done = self.transport.run(command, timeout_s=timeout_s, check=False)
        if done.exit_code == _LOCKED:
            raise LeaseError(f"{self.name}: another job holds the board; try again when it is done.")
        if done.exit_code == _NO_FOLDER:
            last = done.stderr.decode("utf-8", "replace").strip()[-200:]
            raise BoardError(f"{self.name}: no folder can be made in {self.root}: {plain(last)}.")
        if done.exit_code == _NO_FILE:
            raise BoardError(f"{self.name}: {model} does not lie there any more; push it again.")
        return done, plain(done.stderr.decode("utf-8", "replace")), done.stdout.decode("utf-8", "replace")

    def ask(self, script: str) -> str:
        """What a short script prints."""
        done = self.transport.run(["sh", "-c", script], timeout_s=COMMAND_TIMEOUT_S, check=False)
        return plain(done.stdout.decode("utf-8", "replace"))

    def _lying(self, places: Sequence[str], timeout_s: float) -> dict[str, str]:
        if not places:
            return {}
        command = ["sh", "-c", _PRESENT, "present", self.root, *places]
        done = self.transport.run(command, timeout_s=timeout_s, check=False)
        if b"sha256sum" in done.stderr:
            raise BoardError(f"{self.name}: the board has no sha256sum, by which files are checked there.")
        lines = [line.split(None, 1) for line in done.stdout.decode("utf-8", "replace").splitlines()]
        return {line[1].lstrip("*"): line[0] for line in lines if len(line) == 2}

    def _send(
        self, missing: Sequence[Wanted], payload: int, progress: Callable[[int, int], None] | None, hashing_s: float
    ) -> None:
        token, advance = secrets.token_hex(8), adding_up(progress, payload)
        # one for each digest, though two places may want it
        temporaries = {file.sha256: f"tmp/{token}-{file.sha256}" for file in missing}
        try:
            for file in {file.sha256: file for file in missing}.values():
                place = f"{self.root}/{temporaries[file.sha256]}"
                deadline_s = transfer_timeout_s(file.source.stat().st_size)
                self.transport.put(file.source, place, timeout_s=deadline_s, progress=advance)
            script = _ADMIT + "\n".join(_moves(missing, temporaries))
            command = ["sh", "-c", script, "admit", self.root, *temporaries.values()]
            done = self.transport.run(command, timeout_s=hashing_s, check=False)
            if done.exit_code != 0:
                last = plain(done.stderr.decode("utf-8", "replace").strip()[-300:])
                raise TransferError(
                    self.name, f"{len(missing)} files did not arrive whole: {last or 'no reason given'}."
                )
        finally:
            self._remove(f"{self.root}/{temporary}" for temporary in temporaries.values())

    def _remove(self, paths: Iterator[str]) -> None:
        with suppress(TransportError):
            self.transport.run(["rm", "-f", "--", *paths], timeout_s=COMMAND_TIMEOUT_S, check=False)


def _moves(files: Sequence[Wanted], temporaries: Mapping[str, str]) -> Iterator[str]:
    last = {file.sha256: file for file in files}
    for file in files:
        temporary, place = temporaries[file.sha256], shlex.quote(file.place)
        mode = "700" if file.executable else "600"
        yield f"mkdir -p -- {shlex.quote(str(Path(file.place).parent))} && chmod {mode} {temporary} || exit 3"
        verb = "mv -f" if last[file.sha256] is file else "cp -p"
        yield f"{verb} {temporary} {place} || exit 3"
    yield "sync"


@contextmanager
def open_any_board(device: Device, profile: DeviceProfile, base: Path) -> Iterator[Board | BareBoard]:
    """Connect to a board, with or without a Python, and make sure in one round trip that it is what its profile says.

    Paths in `device` are relative to `base`. Raises PlanError, TransportError or BoardError.
    """
    with open_transport(device, base) as transport:
        facts = probe(transport, device)
        board: Board | BareBoard
        try:
            board = fitting_board(transport, facts, device, profile)
        except NoPython as error:
            place = "to a folder that is and from which programs may be run, on a phone below /data/local/tmp"
            check_root(facts, device.name, place)
            board = BareBoard(transport, facts, error)
        yield board
