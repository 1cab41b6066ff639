"""An open board: the agent is on it before the first job, and a job leaves nothing behind but its effects."""

from __future__ import annotations

import json
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgedeploy.board.bundle import agent_bundle, agent_on_its_way
from edgedeploy.board.facts import BoardFacts, check_facts, parse_probe, probe_command
from edgedeploy.board.untrusted import plain, plain_document
from edgedeploy.errors import AgentError, BoardError, LeaseError, PlanError, TransferError, TransportError
from edgedeploy.on_device.reply import find_frame, pack_job
from edgedeploy.on_device.report_schema import check_report
from edgedeploy.on_device.schema import SCHEMA, MalformedDocument
from edgedeploy.records import Device, DeviceProfile
from edgedeploy.transport import Completed, Progress, Transport, open_transport

PROBE_TIMEOUT_S = 60.0  # an emulated board takes most of it to start Python
COMMAND_TIMEOUT_S = 60.0
MAX_REPORT_BYTES = 256 << 20
# A command is one argument of the shell that an SSH server starts, and Linux takes 128 KiB of one.
MAX_INLINE_BYTES = 64 << 10

# What the board's Python ends with where the agent could not be installed; the agent itself never does.
NOT_INSTALLED = 69

# Gives the agent its name only after its digest was checked where it lies, makes both last, and runs it in the same
# process: a slow board starts Python for as long as many a job takes. It is compressed only on its way.
_INSTALL = f"""
import hashlib, os, sys, zlib
temporary, final, expected, limit = sys.argv[1:5]
try:
    with open(temporary, "r+b") as file:
        content = zlib.decompressobj().decompress(file.read(), int(limit))
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise ValueError("sha256 is " + found + " instead of " + expected)
        file.seek(0)
        file.write(content)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, final)
    folder = os.open(os.path.dirname(final), os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
except (OSError, ValueError, zlib.error) as error:
    sys.stderr.write(str(error))
    sys.exit({NOT_INSTALLED})
del content
sys.argv[:] = [final] + sys.argv[5:]
sys.path[0] = final
from on_device.agent import main
sys.exit(main())
"""


class Board:
    """A board that answers and fits its profile. `root` and `python` are absolute paths there.

    `interpreter` is the command that starts its Python, by default `python` alone.
    """

    def __init__(self, transport: Transport, facts: BoardFacts, python: str, interpreter: Sequence[str] = ()) -> None:
        self.transport = transport
        self.facts = facts
        self.root = facts.root
        self.python = python
        self.interpreter = tuple(interpreter) or (python,)
        # Whether the board holds nothing of ours, as the probe saw it and as far as this object knows.
        self.untouched = facts.empty
        self._has_agent = facts.agent_sha256 == agent_bundle()[1]

    @property
    def name(self) -> str:
        """What errors call the board."""
        return self.transport.board

    def path(self, *parts: str) -> str:
        """The absolute path of something under the root."""
        return "/".join([self.root.rstrip("/"), *parts])

    def run_job(
        self, operations: Sequence[Mapping[str, Any]], *, timeout_s: float, tethered: bool = True
    ) -> dict[str, Any]:
        """Have the agent do `operations` and return its report, which has passed the schema.

        An operation that failed is a result with an error: see `result`. A job that is not tethered goes on when the
        link breaks, and its deadlines are its own. Raises AgentError where there is no
        report or one that cannot be used, and TransportError.
        """
        _, digest = agent_bundle()
        self.untouched = False
        document = {"schema": SCHEMA, "root": self.root, "operations": list(operations)}
        content = json.dumps(document, allow_nan=False).encode()
        token, inline = secrets.token_hex(16), pack_job(content)
        # Standard input of a tethered one stays open and silent, and is how the agent learns that the link is gone.
        options = ["--reply", token]
        if tethered:
            options.append("--tethered")
        if self.facts.bundle is not None:
            options += ["--bundle", self.facts.bundle]
        job = None if len(inline) <= MAX_INLINE_BYTES else self.path("tmp", f"{token}-job.json")
        try:
            if job is not None:
                self._put_bytes(content, job)
            given = ["--inline", inline] if job is None else [job]
            completed = self._run_agent([*options, *given], timeout_s, tethered)
        finally:
            if job is not None:
                self.remove([job])
        if completed.exit_code != 0:
            raise AgentError(f"{self.name}: the agent left no report: it {_end(completed)}.")
        try:
            content = find_frame(completed.stdout, token, MAX_REPORT_BYTES)
        except ValueError as error:
            raise AgentError(f"{self.name}: the agent's report cannot be read: {error}.") from error
        return _checked(self.name, content, operations, digest)

    def result(self, report: Mapping[str, Any], index: int) -> dict[str, Any]:
        """The result of one operation. Raises LeaseError where another job held the board, BoardError otherwise."""
        result: dict[str, Any] = report["results"][index]
        error = result.get("error")
        if error is None:
            return result
        if error["kind"] == "locked":
            raise LeaseError(f"{self.name}: another job holds the board: {error['message']}.")
        raise BoardError(f"{self.name}: the board could not do `{result['op']}`: {error['message']}.")

    def remove(self, paths: Sequence[str]) -> None:
        """Remove files if the link still stands; it is no error if it does not, or if they are not there."""
        with suppress(TransportError):
            self.transport.run(["rm", "-f", "--", *paths], timeout_s=COMMAND_TIMEOUT_S, check=False)

    def remove_trees(self, paths: Sequence[str]) -> None:
        """The same with folders and all that is in them."""
        with suppress(TransportError):
            self.transport.run(["rm", "-rf", "--", *paths], timeout_s=COMMAND_TIMEOUT_S, check=False)

    def _run_agent(self, arguments: Sequence[str], timeout_s: float, tethered: bool) -> Completed:
        """Run the agent, installing it first where it is not there. Raises TransportError."""
        content, digest = agent_bundle()
        final = self.path("agents", f"{digest}.pyz")
        if self._has_agent:
            command = [*self.interpreter, final, *arguments]
            return self.transport.run(command, timeout_s=timeout_s, check=False, tethered=tethered)
        temporary = self.path("tmp", f"{secrets.token_hex(8)}-agent.pyz")
        installing = ["-c", _INSTALL, temporary, final, digest, str(len(content))]
        try:
            self._put_bytes(agent_on_its_way(), temporary)
            completed = self.transport.run(
                [*self.interpreter, *installing, *arguments],
                timeout_s=timeout_s + COMMAND_TIMEOUT_S,
                check=False,
                tethered=tethered,
            )
            self._has_agent = completed.exit_code == 0
        finally:
            if not self._has_agent:
                self.remove([temporary])
        if completed.exit_code == NOT_INSTALLED:
            raise TransferError(self.name, f"the agent could not be put on the board: it {_end(completed)}.")
        return completed

    def _put_bytes(self, content: bytes, destination: str) -> None:
        with tempfile.NamedTemporaryFile(prefix="edgedeploy-") as file:
            file.write(content)
            file.flush()
            self.transport.put(Path(file.name), destination, timeout_s=transfer_timeout_s(len(content)))


@contextmanager
def open_board(device: Device, profile: DeviceProfile, base: Path) -> Iterator[Board]:
    """Connect to a board and make sure, in one round trip, that it is what its profile says.

    Paths in `device` are relative to `base`. Raises PlanError, TransportError or BoardError.
    """
    with open_transport(device, base) as transport:
        yield fitting_board(transport, probe(transport, device), device, profile)


def fitting_board(transport: Transport, facts: BoardFacts, device: Device, profile: DeviceProfile) -> Board:
    """The board behind an open transport. Raises BoardError where it is not what its profile says."""
    python = python_of(device)
    check_facts(facts, device, profile, python)
    return Board(transport, facts, facts.python or python, facts.interpreter)


def python_of(device: Device) -> str:
    """The Python that a device's jobs run with where nothing was provisioned."""
    return device.python or (sys.executable if device.address == "local:" else "python3")


def probe(transport: Transport, device: Device) -> BoardFacts:
    """What the board says of itself, in one round trip. Raises PlanError for its root, and TransportError."""
    if not device.root.isprintable():
        raise PlanError(f"{device.name}: root = {device.root!r} holds a character that no line can show; leave it out.")
    command = probe_command(device.root, python_of(device), agent_bundle()[1], named=device.python is not None)
    probed = transport.run(command, timeout_s=PROBE_TIMEOUT_S, check=False)
    return parse_probe(plain(probed.stdout.decode("utf-8", "surrogateescape")))


def transfer_timeout_s(size_bytes: int) -> float:
    """A deadline for a transfer: that of a slow radio link. A link that says nothing is given up much earlier."""
    return 60.0 + size_bytes / 20_000


def adding_up(progress: Callable[[int, int], None] | None, total_bytes: int) -> Progress | None:
    """What transports tell of each chunk that they sent, so that `progress` hears the bytes so far and in all."""
    if progress is None:
        return None
    sent = 0

    def advance(size_bytes: int) -> None:
        nonlocal sent
        sent += size_bytes
        progress(sent, total_bytes)

    return advance


def _end(completed: Completed) -> str:
    code = completed.exit_code
    if code == 137:
        how = "was killed (signal 9), perhaps because the board ran out of memory"
    elif code < 0 or code > 128:
        how = "was killed by a signal" if code < 0 else f"was killed by signal {code - 128}"
    else:
        how = f"ended with exit code {code}"
    last = plain(completed.stderr.decode("utf-8", "replace")).strip().rpartition("\n")[2][:300]
    return f"{how}; its last words: {last}" if last else how


def _checked(board: str, content: bytes, operations: Sequence[Mapping[str, Any]], digest: str) -> dict[str, Any]:
    try:
        report = plain_document(json.loads(content))
        check_report(report)
    except (ValueError, RecursionError, MalformedDocument) as error:
        raise AgentError(f"{board}: the agent's report cannot be read: {error}.") from error
    asked, answered = [each["op"] for each in operations], [each["op"] for each in report["results"]]
    if asked != answered:
        raise AgentError(f"{board}: the agent was asked for {asked} but its report answers {answered!r:.200}.")
    if report["agent_sha256"] != digest:
        raise AgentError(
            f"{board}: another agent answered ({report['agent_sha256'][:12]} instead of {digest[:12]}); run again."
        )
    found: dict[str, Any] = report
    return found
