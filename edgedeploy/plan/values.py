"""What a project's files come to: a plan and a fleet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgedeploy.errors import PlanError
from edgedeploy.plan.mistakes import did_you_mean
from edgedeploy.records import DeploySettings, Device, DeviceProfile, Limits, Pass, Recipe

PLAN_FILE = "edgedeploy.toml"
FLEET_FILE = "fleet.toml"

Objective = Literal["latency", "file", "memory", "energy"]
Mode = Literal["smoke", "quick", "full"]


@dataclass(frozen=True, slots=True)
class Goal:
    """What to minimise among the variants that keep within the limits."""

    minimise: Objective
    limits: Limits


@dataclass(frozen=True, slots=True)
class Plan:
    """A project's edgedeploy.toml.

    `source` is a file of others that holds the net; `train` is the pass that makes the source weights where the
    file says how; `project` is the name under which a shared database knows the project, empty for a database of its
    own.
    """

    folder: Path
    task_file: Path
    weights: Path | None
    source: Path | None
    train: Pass | None
    goal: Goal
    recipes: tuple[Recipe, ...]
    mode: Mode
    threads: int
    accelerator: str
    project: str
    store_url: str | None
    deploy: DeploySettings = field(default_factory=DeploySettings)


@dataclass(frozen=True, slots=True)
class Fleet:
    """A project's fleet.toml: its boards in the order of the file, and the kinds of board they may be."""

    devices: tuple[Device, ...]
    profiles: Mapping[str, DeviceProfile]

    def device(self, name: str) -> Device:
        """The device called `name`. Raises PlanError that lists what is there."""
        for device in self.devices:
            if device.name == name:
                return device
        there = ", ".join(device.name for device in self.devices) or "none yet"
        raise PlanError(
            f"{FLEET_FILE}: no device `{name}`{did_you_mean(name, [d.name for d in self.devices])}; there: {there}."
        )

    def profile(self, device: Device) -> DeviceProfile:
        """The kind of board that `device` is."""
        return self.profiles[device.profile]
