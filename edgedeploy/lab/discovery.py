"""Finds boards that this machine could reach, and proposes them for fleet.toml."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgedeploy.errors import PlanError, TransportError
from edgedeploy.records import Device, DeviceProfile
from edgedeploy.transport import Transport, adb_server_port
from edgedeploy.transport.adb_devices import matching, parse_devices
from edgedeploy.transport.adb_server import AdbServer, find_adb
from edgedeploy.transport.address import parse_address
from edgedeploy.transport.ssh_config import host_aliases

ASK_TIMEOUT_S = 30.0
MAX_TEXT = 200
PROFILE_TO_CHOOSE = "CHOOSE"

# What a board is, in two lines, from whatever POSIX shell it has.
_ASK = (
    "uname -m; cat /sys/firmware/devicetree/base/model /proc/device-tree/model 2>/dev/null "
    "| tr -d '\\000' | head -n 1; exit 0"
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A board that could be in the fleet. `seen` says where it was found, `state` what keeps it from being used."""

    name: str
    address: str
    seen: str
    profile: str | None = None
    state: str = ""
    ssh_config: str | None = None

    def table(self) -> dict[str, str]:
        """The [[device]] to propose; a profile that nobody knows is left for the user to choose."""
        table = {"name": self.name, "profile": self.profile or PROFILE_TO_CHOOSE, "address": self.address}
        return table | ({"ssh_config": self.ssh_config} if self.ssh_config else {})


def discover(
    known: Iterable[Device], profiles: Mapping[str, DeviceProfile], ssh_config: Path | None = None
) -> tuple[list[Candidate], list[str]]:
    """Boards on adb and hosts of ssh_config that are not among `known`, and notes on what could not be looked at.

    Nothing is connected to but adb's own server. Raises PlanError for an ssh_config that cannot be read, and for a
    phone in the fleet whose address is none.
    """
    known = list(known)
    notes: list[str] = []
    hosts = {_without_user(device.address) for device in known if device.scheme == "ssh"}
    names = {device.name for device in known}
    found = []
    for candidate in [*_on_adb(known, profiles, notes), *_in_ssh_config(ssh_config)]:
        if _without_user(candidate.address) in hosts:
            continue
        found.append(_renamed(candidate, names))
        names.add(found[-1].name)
    return found, notes


def ask(transport: Transport) -> tuple[str, str]:
    """The machine of an open board as its kernel calls it, and its model, "" where it has no device tree.

    Raises TransportError.
    """
    said = transport.run(["sh", "-c", _ASK], timeout_s=ASK_TIMEOUT_S, check=False).stdout.decode("utf-8", "replace")
    lines = [line.strip()[:MAX_TEXT] for line in said.splitlines() if line.strip() and line.strip().isprintable()]
    machine = next((line for line in lines if re.fullmatch(r"[a-z][a-z0-9_-]{1,15}", line)), "")
    return machine, lines[-1] if lines and lines[-1] != machine else ""


def suggest_profile(machine: str, model: str, profiles: Mapping[str, DeviceProfile], scheme: str = "ssh") -> str | None:
    """The profile that a board's model names, else the only one that machine and way to it leave, else None."""
    titled = [
        profile.name
        for profile in sorted(profiles.values(), key=lambda each: -len(each.title))
        if _words(profile.title) <= _words(model)
    ]
    if titled:
        return titled[0]
    same = [profile.name for profile in profiles.values() if profile.arch == machine and scheme in profile.transports]
    return same[0] if len(same) == 1 else None


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.casefold()))


def _on_adb(known: Sequence[Device], profiles: Mapping[str, DeviceProfile], notes: list[str]) -> list[Candidate]:
    if find_adb() is None:
        notes.append("adb is not installed, so phones were not looked for")
        return []
    server = AdbServer("adb")
    try:
        server.acquire()
        try:
            code, said = server.call("devices", "-l")
        finally:
            server.release()
    except TransportError as error:
        notes.append(f"phones were not looked for: {str(error).rstrip('.')}")
        return []
    if code:
        notes.append("`adb devices` failed, so phones were not looked for")
    listed = parse_devices(said)
    in_fleet = [phone for wanted in _wanted_of(known, server) for phone in matching(wanted, listed)]
    serials = Counter(phone.serial for phone in listed)
    found = []
    for phone in listed:
        if phone in in_fleet:
            continue
        serial, state = phone.serial[:MAX_TEXT], phone.state.partition(" (")[0]
        named_by_adb = dict(each.split(":", 1) for each in phone.about)
        model = named_by_adb.get("model", "").replace("_", " ")
        phones = {name: profile for name, profile in profiles.items() if "adb" in profile.transports}
        named = next(
            (name for name, profile in phones.items() if _words(model) and _words(model) <= _words(profile.title)), None
        )
        profile = named or ("android-arm64" if "android-arm64" in phones else None)
        why = "" if state == "device" else _ADB_STATES.get(state, state)
        # makers that give all their phones one serial leave the USB port to tell them apart
        port = next((each for each in phone.about if each.startswith("usb:")), serial)
        address = f"adb://{serial if serials[serial] == 1 else port[:MAX_TEXT]}"
        found.append(Candidate(_name(model or serial), address, f"adb: {model or serial}", profile, why))
    return found


def _wanted_of(known: Sequence[Device], server: AdbServer) -> Iterator[str]:
    """What the fleet calls its phones that are behind that adb server: one serial may be there behind two."""
    for device in known:
        if device.scheme == "adb":
            address = parse_address(device.address, f"device {device.name!r}")
            if AdbServer(device.name, adb_server_port(device, address)).is_same(server):
                yield address.host


_ADB_STATES = {
    "unauthorized": "confirm this machine's key on its screen",
    "offline": "it is offline: plug it in again",
    "no permissions": "this account may not open its USB device; add a udev rule",
}


def _in_ssh_config(ssh_config: Path | None) -> list[Candidate]:
    where = str(ssh_config or "~/.ssh/config")
    found = []
    for alias in host_aliases(ssh_config):
        address = f"ssh://{alias}"
        try:
            parse_address(address, where)
        except PlanError:
            continue  # such as an alias with a blank, which no address can name
        given = str(ssh_config) if ssh_config is not None else None
        found.append(Candidate(_name(alias), address, where, ssh_config=given))
    return found


def _without_user(address: str) -> str:
    return re.sub(r"//[^@/]*@", "//", address)


def _name(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", text.casefold()).strip("-._")[:60] or "board"


def _renamed(candidate: Candidate, taken: set[str]) -> Candidate:
    name, number = candidate.name, 2
    while name in taken:
        name, number = f"{candidate.name}-{number}", number + 1
    return replace(candidate, name=name)
