"""Adds a board to fleet.toml as a user would, by a table at its end, and leaves all else in it as it is."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgedeploy.errors import PlanError
from edgedeploy.plan.mistakes import did_you_mean, first_mistake
from edgedeploy.plan.reading import PROFILES_FOLDER, load_fleet, load_profiles
from edgedeploy.plan.tables import DeviceTable
from edgedeploy.plan.values import FLEET_FILE

HEADING = "# The boards, each a [[device]]. `edgedeploy devices` lists them.\n"


def device_toml(table: Mapping[str, Any]) -> str:
    """A [[device]] table of texts, flags and lists of texts, as it stands in fleet.toml."""
    lines = [f"{key} = {_value(value)}" for key, value in table.items()]
    return "\n".join(["[[device]]", *lines]) + "\n"


def check_device(folder: Path, table: Mapping[str, Any]) -> None:
    """Raise PlanError where the table cannot be added to `folder`/fleet.toml, which need not be there."""
    path = folder / FLEET_FILE
    try:
        checked = DeviceTable.model_validate(dict(table))
    except ValidationError as error:
        raise PlanError(first_mistake(path, "device", error, DeviceTable)) from error
    if path.exists():
        fleet = load_fleet(folder)
        if any(device.name == checked.name for device in fleet.devices):
            raise PlanError(f"{path}: device: the name `{checked.name}` is taken; give the new board another one.")
    profiles = load_profiles(folder / PROFILES_FOLDER)
    if checked.profile not in profiles:
        raise PlanError(
            f"no device profile `{checked.profile}`{did_you_mean(checked.profile, profiles)}; "
            f"there: {', '.join(sorted(profiles))}."
        )


def add_device(folder: Path, table: Mapping[str, Any]) -> None:
    """Append a checked [[device]] to `folder`/fleet.toml; all of it happens or nothing. Raises PlanError."""
    path = folder / FLEET_FILE
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise PlanError(f"{folder}: cannot be opened: {error.strerror}.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two that add at once both stay in
        check_device(folder, table)
        before = path.read_text("utf-8") if path.exists() else HEADING
        after = before + ("" if before.endswith("\n") else "\n") + "\n" + device_toml(table)
        try:
            added: Sequence[Mapping[str, Any]] = tomllib.loads(after)["device"]
        except tomllib.TOMLDecodeError as error:
            raise PlanError(
                f"{path}: a [[device]] cannot be added at its end ({error}); write its boards as [[device]] tables."
            ) from error
        if dict(added[-1]) != dict(table):
            raise PlanError(f"{path}: the table of `{table['name']}` does not read back as it was meant.")
        _replace(path, after)
    finally:
        os.close(lock)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's texts are TOML's basic strings but for DEL, which TOML wants escaped
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return "[" + ", ".join(_value(entry) for entry in value) + "]"


def _replace(path: Path, text: str) -> None:
    try:
        path = path.resolve()
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".fleet-", delete=False) as new:
            try:
                new.write(text)
                new.flush()
                os.fsync(new.fileno())
                Path(new.name).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
                Path(new.name).replace(path)
            except BaseException:
                Path(new.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise PlanError(f"{path}: cannot be written: {error.strerror or error}.") from error
