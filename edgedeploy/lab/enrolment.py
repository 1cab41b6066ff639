"""Takes a board into the fleet: its host keys are confirmed, it is asked what it is, then fleet.toml gets its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedeploy.board.facts import SAME_MACHINE
from edgedeploy.errors import BoardError, HostKeyError, OfferedKey, PlanError
from edgedeploy.lab.discovery import ask, suggest_profile
from edgedeploy.plan import load_profiles
from edgedeploy.plan.enrolling import add_device, check_device
from edgedeploy.plan.reading import PROFILES_FOLDER
from edgedeploy.records import Device, DeviceProfile
from edgedeploy.transport import open_transport
from edgedeploy.transport.known_hosts import enrol_host_key
from edgedeploy.transport.ssh_config import MAX_HOPS

_SAME_MACHINE = {**SAME_MACHINE, "armv8l": "aarch64"}


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The table that fleet.toml got, what the board says it is, and the host keys that are known from now on."""

    table: Mapping[str, Any]
    machine: str
    model: str
    keys: tuple[OfferedKey, ...]


def enrol(folder: Path, table: Mapping[str, Any], confirm: Callable[[OfferedKey], bool]) -> Enrolled:
    """Connect to the board of a [[device]] table, and add the table to `folder`/fleet.toml.

    A table without a profile gets the one that the board's model names. `confirm` decides on each host key that is not
    known yet; one that has changed is never offered. Raises PlanError, TransportError or BoardError; then fleet.toml
    is as it was, though a key that was confirmed stays known.
    """
    profiles = load_profiles(folder / PROFILES_FOLDER)
    check_device(folder, {"profile": next(iter(profiles)), **table})
    fields = {key: value for key, value in table.items() if key != "tags"}
    device = Device(**{"profile": "", **fields})
    machine, model, keys = _meet(device, folder, confirm)
    suggested = suggest_profile(_SAME_MACHINE.get(machine, machine), model, profiles, device.scheme)
    name = table.get("profile") or suggested
    if name is None:
        raise PlanError(
            f"{device.name}: the board ({model or machine or 'it does not say what it is'}) is of no known kind; "
            f"name one with --profile: {', '.join(sorted(profiles))}."
        )
    _check_machine(device.name, machine, profiles[name])
    whole = {"name": table["name"], "profile": name, **{k: v for k, v in table.items() if k not in ("name", "profile")}}
    add_device(folder, whole)
    return Enrolled(whole, machine, model, keys)


def _meet(
    device: Device, folder: Path, confirm: Callable[[OfferedKey], bool]
) -> tuple[str, str, tuple[OfferedKey, ...]]:
    keys: list[OfferedKey] = []
    while True:
        try:
            with open_transport(device, folder) as transport:
                return *ask(transport), tuple(keys)
        except HostKeyError as error:
            offered = error.offered
            if offered is None or len(keys) > MAX_HOPS or not confirm(offered):
                raise
            try:
                enrol_host_key(offered)
            except OSError as failure:
                raise HostKeyError(
                    device.name, f"the host key cannot be added to {offered.file}: {failure.strerror}."
                ) from failure
            keys.append(offered)


def _check_machine(board: str, machine: str, profile: DeviceProfile) -> None:
    same = _SAME_MACHINE.get(machine, machine)
    if not machine or same == profile.arch or (same, profile.arch) == ("aarch64", "armv7l"):
        return
    raise BoardError(
        f"{board}: the board is a {machine} machine but the profile {profile.name} is for {profile.arch}; "
        "name another with --profile."
    )
