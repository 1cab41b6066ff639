"""Finds the one phone that is meant among those adb sees, and says what to do where it cannot be used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgedeploy.errors import AuthError, ConnectError, TransportError

# States that a phone leaves by itself a moment after it was plugged in or connected.
PASSING = frozenset({"offline", "authorizing", "connecting"})

_QUALIFIERS = ("usb", "product", "model", "device", "transport_id")
_ASLEEP = frozenset({"bootloader", "recovery", "rescue", "sideload", "host"})
# A state is one word, but for `no permissions (reason); see [address]`.
_LINE = re.compile(rf"(\S+)\s+(no permissions.*?|\S+)((?:\s+(?:{'|'.join(_QUALIFIERS)}):\S+)*)\s*")
_NETWORK = re.compile(r"(?:\[[0-9A-Fa-f:.%\w]+\]|[A-Za-z0-9_.-]+):\d{1,5}")


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of `adb devices -l`: `about` are its qualifiers, such as `model:Pixel_8`."""

    serial: str
    state: str
    about: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """How it is told apart from others: its serial, and what adb knows of it."""
        known = [each for each in self.about if not each.startswith("transport_id:")]
        return f"{self.serial} ({', '.join([self.state, *known])})"


def parse_devices(text: str) -> tuple[Listed, ...]:
    """The lines of `adb devices -l`, passing over what else adb says, such as that its server was started."""
    _, _, listed = text.partition("List of devices attached")
    found = []
    for line in listed.splitlines():
        match = _LINE.fullmatch(line.strip())
        if match and not line.startswith("*"):
            found.append(Listed(match[1], match[2], tuple(match[3].split())))
    return tuple(found)


def is_network(serial: str) -> bool:
    """Whether adb reaches the phone over TCP, and so must be told to connect: `HOST:PORT`."""
    return bool(_NETWORK.fullmatch(serial)) and serial.partition(":")[0] not in _QUALIFIERS


def matching(wanted: str, listed: Sequence[Listed]) -> list[Listed]:
    """The phones of that serial, or of that qualifier, such as `model:Pixel_8` or `usb:1-4`."""
    return [one for one in listed if one.serial == wanted or wanted in one.about]


def find(board: str, wanted: str, listed: Sequence[Listed]) -> Listed:
    """The phone that is meant, ready to be used. Raises ConnectError or AuthError, each with the mend."""
    found = matching(wanted, listed)
    if not found:
        there = "; it sees " + ", ".join(one.text for one in listed) if listed else " and sees no other"
        mend = (
            "check that the phone listens there (`adb tcpip`, or wireless debugging) and that the network reaches it"
            if is_network(wanted)
            else "check the cable and that USB debugging is on, or correct `address` in fleet.toml"
        )
        raise ConnectError(board, f"adb does not see {wanted!r}{there}: {mend}.")
    if len(found) > 1:
        names = ", ".join(one.text for one in found)
        raise ConnectError(
            board,
            f"{wanted!r} is {len(found)} phones: {names}; name one in fleet.toml, by its serial or by the USB port "
            "that it is plugged in at, as adb://usb:1-4.",
        )
    fault = _fault(board, found[0])
    if fault is not None:
        raise fault
    return found[0]


def _fault(board: str, phone: Listed) -> TransportError | None:
    serial, state = phone.serial, phone.state
    if state == "device":
        return None
    if state in {"unauthorized", "authorizing"}:
        return AuthError(
            board,
            f"the phone {serial} does not trust this computer yet: unlock it and accept the key that it asks about; "
            "where it asks nothing, revoke its USB debugging authorisations and plug it in again.",
        )
    if state.startswith("no permissions"):
        return AuthError(
            board,
            f"the user of this computer may not open the USB device of the phone {serial}: install Android's udev "
            "rules (Debian: android-sdk-platform-tools-common), join the group plugdev, and plug it in again.",
        )
    if state in {"offline", "connecting"}:
        return ConnectError(
            board,
            f"the phone {serial} is plugged in but does not answer (offline): plug it in again or turn USB debugging "
            "off and on.",
        )
    if state in _ASLEEP:
        return ConnectError(board, f"the phone {serial} is in its {state}, not in Android: let it start up.")
    return ConnectError(board, f"the phone {serial} is in the state {state!r}, in which nothing runs on it.")
