"""Run a command on a board and carry files to and from it; every policy lives above."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from edgedeploy.errors import PlanError
from edgedeploy.transport.address import Address, parse_address

if TYPE_CHECKING:
    from types import TracebackType

    from edgedeploy.records import Device

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ran to its end.

    `exit_code` is what a shell would report: 128 + N when signal N ended the command, and -1 when a signal did
    but the link does not tell which.
    """

    argv: tuple[str, ...]
    exit_code: int
    stdout: bytes
    stderr: bytes


class Transport(Protocol):
    """The link to one board: a context manager that connects on enter.

    Paths on the board are absolute, or relative to the home of the user who logs in. Nothing is retried once
    it may have had an effect. All methods raise TransportError and nothing else about the link.
    """

    board: str

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes | None = None,
        check: bool = True,
        tethered: bool = False,
    ) -> Completed:
        """Run `argv` and wait for its end, draining both streams.

        With `tethered`, standard input stays open and silent until the command ends, so that the command sees
        end of file when the link breaks; it excludes `stdin`. Raises CommandFailed for a non-zero exit code if
        `check`, TransportTimeout after `timeout_s`, ConnectError when the link is lost.
        """

    def put(self, source: Path, destination: str, *, timeout_s: float, progress: Progress | None = None) -> None:
        """Copy the local `source` to `destination`, whose folder exists.

        `progress` gets the bytes sent since its last call. Writes straight to `destination`:
        after a TransferError or TransportTimeout a part may lie there.
        """

    def get(self, source: str, destination: Path, *, timeout_s: float, max_bytes: int) -> None:
        """Copy `source` from the board; raises TransferError when it is missing or longer than `max_bytes`.

        After an error there is no file at `destination`.
        """


def _open_local(device: Device, address: Address, base: Path) -> Transport:
    from edgedeploy.transport.local import LocalTransport

    del address, base
    return LocalTransport(device.name)


def ssh_config_file(device: Device, base: Path) -> Path | None:
    """The ssh_config that stands alone for a device, relative to `base`; None for the user's own."""
    return None if device.ssh_config is None else base / Path(device.ssh_config).expanduser()


def _open_ssh(device: Device, address: Address, base: Path) -> Transport:
    from edgedeploy.transport.ssh import SshTransport

    return SshTransport(device.name, address, ssh_config_file(device, base))


def adb_server_port(device: Device, address: Address) -> int | None:
    """Where the adb server of a device listens, by its address or else by its key; None for the user's own server."""
    return address.server_port or device.adb_server_port


def _open_adb(device: Device, address: Address, base: Path) -> Transport:
    from edgedeploy.transport.adb import AdbTransport

    del base
    return AdbTransport(device.name, address.host, adb_server_port(device, address))


TRANSPORTS: Mapping[str, Callable[[Device, Address, Path], Transport]] = {
    "local": _open_local,
    "ssh": _open_ssh,
    "adb": _open_adb,
}


def open_transport(device: Device, base: Path) -> Transport:
    """Return the transport for the device's address, not yet connected; relative paths are relative to `base`.

    Raises PlanError for an address that cannot be used.
    """
    address = parse_address(device.address, f"device {device.name!r}")
    if address.scheme not in TRANSPORTS:
        known = ", ".join(TRANSPORTS)
        raise PlanError(
            f"device {device.name!r}: the address {device.address!r} has the scheme {address.scheme!r}, "
            f"but edgedeploy knows only these: {known}."
        )
    return TRANSPORTS[address.scheme](device, address, base)
