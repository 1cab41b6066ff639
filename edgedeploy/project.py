"""A folder with an edgedeploy.toml: its plan, its fleet and its store, each read when first needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from edgedeploy.board.runners import Runners
from edgedeploy.compress import PASSES, misplaced
from edgedeploy.errors import PlanError
from edgedeploy.plan import FLEET_FILE, Fleet, Plan, did_you_mean, load_fleet, load_plan, suited_to
from edgedeploy.records import Device, DeviceProfile, Recipe, Report, Variant
from edgedeploy.store import Store

STORE_FOLDER = ".edgedeploy"


class Project:
    """What the stations work on. A mistake in a file raises PlanError when the file is first needed."""

    def __init__(self, folder: Path | str = ".") -> None:
        self.folder = Path(folder)

    @cached_property
    def plan(self) -> Plan:
        """The project's edgedeploy.toml, what its recipes leave open settled for the boards of fleet.toml."""
        plan = load_plan(self.folder, PASSES, misplaced)
        if not (self.folder / FLEET_FILE).exists():
            return plan
        return replace(plan, recipes=suited_to(self.fleet, plan.recipes))

    @cached_property
    def fleet(self) -> Fleet:
        """The project's fleet.toml."""
        return load_fleet(self.folder)

    @cached_property
    def store(self) -> Store:
        """The project's objects and records."""
        return Store(self.folder / STORE_FOLDER, self.plan.project, self.plan.store_url)

    @cached_property
    def runners(self) -> Runners:
        """The native runners that were added to the project."""
        return Runners(self.folder / STORE_FOLDER)

    def devices(self, names: Sequence[str] = ()) -> list[Device]:
        """The named devices of the fleet, or all of them. Raises PlanError that lists what is there."""
        if names:
            return [self.fleet.device(name) for name in dict.fromkeys(names)]
        if not self.fleet.devices:
            raise PlanError(f"{self.folder / 'fleet.toml'}: no device in it yet; add a [[device]] table.")
        return list(self.fleet.devices)

    def recipes(self, names: Sequence[str] = ()) -> tuple[Recipe, ...]:
        """The named recipes of the plan, or all of them. Raises PlanError that lists what is there."""
        there = {recipe.name: recipe for recipe in self.plan.recipes}
        for name in names:
            if name not in there:
                raise PlanError(f"no recipe `{name}`{did_you_mean(name, there)}; there: {', '.join(there)}.")
        return tuple(recipe for recipe in self.plan.recipes if not names or recipe.name in names)

    def variants(self, names: Sequence[str] = ()) -> list[Variant]:
        """The variants of the last build by name or by the start of an id, or all of them. Raises PlanError."""
        current = self.store.current()
        if not current:
            raise PlanError(f"{self.folder}: nothing is built yet; run `edgedeploy build`.")
        return [_find(name, current) for name in dict.fromkeys(names)] if names else current

    def accelerator(self, device: Device, name: str | None = None) -> str:
        """What to run on there: `name` where it is given, else what the fleet says, else the plan. Raises PlanError."""
        wanted = name or device.accelerator or self.plan.accelerator
        there = self.profile(device).accelerator_names
        if wanted not in there:
            raise PlanError(
                f"{device.name}: the profile {device.profile} has no accelerator "
                f"`{wanted}`{did_you_mean(wanted, there)}; there: {', '.join(there)}."
            )
        return wanted

    def latest_reports(self, device: Device, accelerator: str | None = None) -> dict[str, Report]:
        """The newest report by variant id of what ran on one accelerator, by default the one that `accelerator` gives.

        What another kind of board of the same name once said is left out. Raises PlanError.
        """
        wanted = self.accelerator(device, accelerator)
        return {
            report.variant_id: report
            for report in self.store.reports(device.name)
            if report.profile == device.profile and report.conditions.accelerator == wanted
        }

    def without_board(self, variants: Sequence[Variant]) -> Iterator[tuple[str, str]]:
        """The variants that no board of the fleet can run, each with the reason of the first; none without a fleet."""
        kinds = [self.profile(d) for d in self.fleet.devices] if (self.folder / FLEET_FILE).exists() else []
        for variant in variants:
            reasons = [kind.why_not(variant.target) for kind in kinds]
            if reasons and all(reasons):
                yield variant.name, reasons[0]

    def profile(self, device: Device) -> DeviceProfile:
        """The kind of board that a device of the fleet is."""
        return self.fleet.profile(device)


def _find(name: str, variants: Sequence[Variant]) -> Variant:
    by_id = [variant for variant in variants if len(name) >= 6 and variant.id.startswith(name)]
    matches = [variant for variant in variants if variant.name == name] or by_id
    if len(matches) == 1:
        return matches[0]
    names = [variant.name for variant in variants]
    what = "more than one variant's id starts with" if matches else "no variant"
    raise PlanError(f"{what} `{name}`{did_you_mean(name, names)}; there: {', '.join(names)}.")
