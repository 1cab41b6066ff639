"""Every error that edgedeploy raises on purpose, so that a caller can tell whose turn it is.

    EdgeDeployError
      PlanError                 a file the user wrote; names file, key, what was found, what was expected
      CompressionError          a pass could not do what the recipe asks
        NothingToDo             because the net has nothing that the pass works on
      ExportError               the net could not be written in the format
        ParityError             the written file does not compute what the source computes
        AccuracyError           it does, but may lose more of the metric than the recipe allows
      TransportError            the link to a board; always names the board
        ConnectError            nobody answers
        AuthError               the board does not let us in
        HostKeyError            the board is not who it was, or is not known yet
        TransferError           bytes did not arrive
        TransportTimeout        a deadline passed
        CommandFailed           a command ran and failed; carries argv, exit code, both streams
      BoardError                no space, no runtime, locked, unfit profile
        NoPython                no Python that can run the agent
      AgentError                no report came back, or one that cannot be read
      NothingQualifies          no variant may be made active on a board
      DownloadError             a package registry, asked from this machine, did not give what was asked for
      StoreError                the project's own database or object folder
      LeaseError                another job holds the board

A message is one sentence that says what went wrong, where, and how to mend it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path


@dataclass(frozen=True, slots=True)
class OfferedKey:
    """The host key of a server that is not known yet: its name in known_hosts files, and the file for its line."""

    name: str
    key_type: str
    blob: bytes
    file: Path


class ExitCode(IntEnum):
    """What the command line returns to its caller."""

    DONE = 0
    NOTHING_QUALIFIES = 1
    USAGE = 2
    UNAVAILABLE = 3
    FAILED = 4
    INTERRUPTED = 130


class EdgeDeployError(Exception):
    """Base of all errors meant for the user; `exit_code` is what a command line should return."""

    exit_code = ExitCode.FAILED


class PlanError(EdgeDeployError):
    """A file the user wrote cannot be used as it stands."""

    exit_code = ExitCode.USAGE


class CompressionError(EdgeDeployError):
    """A pass could not do what the recipe asks of it."""


class NothingToDo(CompressionError):
    """The net has nothing that the pass works on."""


class ExportError(EdgeDeployError):
    """The net could not be written in the wanted format."""


class ParityError(ExportError):
    """The exported file strays from the source by more than its precision allows."""


class AccuracyError(ExportError):
    """A quantised file may lose more of the metric than its recipe allows, whichever layers stay in float."""


class TransportError(EdgeDeployError):
    """The link to a board failed. `board` is the board's name or address, and leads the message."""

    exit_code = ExitCode.UNAVAILABLE

    def __init__(self, board: str, message: str) -> None:
        super().__init__(f"{board}: {message}")
        self.board = board


class ConnectError(TransportError):
    """Nobody answers at the board's address."""


class AuthError(TransportError):
    """The board refuses the user or the key."""


class HostKeyError(TransportError):
    """The board's host key is unknown or has changed. `offered` is the key that may be enrolled, if any."""

    def __init__(self, board: str, message: str, offered: OfferedKey | None = None) -> None:
        super().__init__(board, message)
        self.offered = offered


class TransferError(TransportError):
    """A file did not arrive whole."""


class TransportTimeout(TransportError):
    """A deadline passed before the board answered."""


class CommandFailed(TransportError):
    """A command ran on the board and returned a non-zero exit code."""

    exit_code = ExitCode.FAILED

    def __init__(self, board: str, argv: Sequence[str], exit_code: int, stdout: bytes, stderr: bytes) -> None:
        said = stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:300]
        last = "".join(character if character.isprintable() else "\ufffd" for character in said)
        super().__init__(board, f"`{argv[0]}` failed with exit code {exit_code}" + (f": {last}" if last else ""))
        self.argv = tuple(argv)
        self.command_exit_code = exit_code
        self.stdout = stdout
        self.stderr = stderr


class BoardError(EdgeDeployError):
    """The board answers but cannot do the job: no space, no Python, no runtime, locked, unfit."""


class NoPython(BoardError):
    """The board has no Python that can run the agent; a native runner needs none."""


class AgentError(EdgeDeployError):
    """The agent on the board left no report, or one that cannot be read."""


class NothingQualifies(EdgeDeployError):
    """No variant meets every limit on a board, so that there is none to be made active there."""

    exit_code = ExitCode.NOTHING_QUALIFIES


class DownloadError(EdgeDeployError):
    """A package registry cannot be reached from this machine, or not with the tools that are here."""

    exit_code = ExitCode.UNAVAILABLE


class StoreError(EdgeDeployError):
    """The project's database or object folder cannot be used."""


class LeaseError(EdgeDeployError):
    """Another job holds the board."""

    exit_code = ExitCode.UNAVAILABLE
