"""Reads the files a user writes into typed values; every mistake in them names file, key and mend."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from edgedeploy.errors import PlanError
from edgedeploy.plan.mistakes import did_you_mean, first_mistake, first_repeated
from edgedeploy.plan.passes import parse_pass
from edgedeploy.plan.ready import filled_in
from edgedeploy.plan.tables import FleetFile, PlanFile, ProfileFile, RecipeTable
from edgedeploy.plan.values import FLEET_FILE, PLAN_FILE, Fleet, Goal, Plan
from edgedeploy.records import (
    Accelerator,
    Calibration,
    CpuCluster,
    DeploySettings,
    Device,
    DeviceProfile,
    Format,
    Int8Form,
    Int8Preference,
    Limits,
    Pass,
    Precision,
    Recipe,
    RuntimeSupport,
    Target,
    unwrapped,
)

PROFILES_FOLDER = "device_profiles"
BOARD_ROOT = "~/.edgedeploy"
PHONE_ROOT = "/data/local/tmp/edgedeploy"


_File = TypeVar("_File", bound=BaseModel)


def load_plan(
    folder: Path,
    passes: Mapping[str, type[Pass]],
    misplaced: Callable[[Sequence[Pass]], tuple[int, str] | None] = lambda _: None,
) -> Plan:
    """Read `folder`/edgedeploy.toml. Raises PlanError.

    `passes` maps a pass's kind to its dataclass; `misplaced` gives the place of the first pass of a recipe that may
    not stand there, and why, or None.
    """
    path = folder / PLAN_FILE
    document = _read(path, PlanFile, "run `edgedeploy init` to write one", filled_in)
    names = [recipe.name for recipe in document.recipe]
    if repeated := first_repeated(names):
        raise PlanError(f"{path}: recipe: the name `{repeated}` is used twice; give each recipe its own.")
    recipes = tuple(
        Recipe(
            name=recipe.name,
            passes=tuple(
                parse_pass(path, f"recipe[{i}].passes[{j}]", table, passes) for j, table in enumerate(recipe.passes)
            ),
            targets=_targets(recipe),
            max_drop=recipe.max_drop,
        )
        for i, recipe in enumerate(document.recipe)
    )
    for i, made in enumerate(recipes):
        if (wrong := misplaced(made.passes)) is not None:
            place, why = wrong
            raise PlanError(f"{path}: recipe[{i}].passes[{place}]: {why}.")
    if document.task.source is not None:
        _check_source(path, document, document.task.source)
    train = None
    if document.train is not None:
        if document.task.weights is None:
            raise PlanError(
                f'{path}: task.weights: missing; name the file that [train] is to write, e.g. "weights.safetensors".'
            )
        train = parse_pass(path, "train", {"kind": "fine-tune", **document.train}, passes)
    if document.store.url is not None and document.store.project is None:
        raise PlanError(f"{path}: store.project: missing; a database may hold several projects, so name this one.")
    goal = document.goal.model_dump()
    return Plan(
        folder=folder,
        task_file=folder / document.task.file,
        weights=folder / document.task.weights if document.task.weights else None,
        source=folder / document.task.source if document.task.source else None,
        train=train,
        goal=Goal(goal.pop("minimise"), Limits(**goal)),
        recipes=recipes,
        mode=document.profile.mode,
        threads=document.profile.threads,
        accelerator=document.profile.accelerator,
        project=document.store.project or "",
        store_url=document.store.url,
        deploy=DeploySettings(**document.deploy.model_dump()),
    )


def _check_source(path: Path, document: PlanFile, source: str) -> None:
    """What a net from a file cannot have is told before anything is built of it."""
    for key, given in (("task.weights", document.task.weights), ("train", document.train)):
        if given is not None:
            raise PlanError(f"{path}: {key}: {source} brings its own weights; take {key.split('.')[-1]} out.")
    if not source.endswith(".onnx"):
        return
    for i, recipe in enumerate(document.recipe):
        if Format.TFLITE in recipe.formats:
            raise PlanError(
                f"{path}: recipe[{i}].formats: TFLite files are converted from PyTorch, and {source} holds no PyTorch "
                "net; leave tflite out, or give the net as a .pt2 file or by model()."
            )
        if recipe.passes:
            raise PlanError(
                f"{path}: recipe[{i}].passes: passes change a PyTorch net, and {source} holds none; take passes out, "
                "or give the net as a .pt2 file or by model()."
            )


def _targets(recipe: RecipeTable) -> tuple[Target, ...]:
    calibration = Calibration(**recipe.calibration.model_dump()) if recipe.calibration else None
    return tuple(
        Target(
            file_format,
            precision,
            form,
            calibration if precision.calibrated else None,
            # A TFLite file takes one at a time anyhow: asked for or not, it is the same file.
            None if file_format is Format.TFLITE and recipe.batch == 1 else recipe.batch,
        )
        for file_format in dict.fromkeys(recipe.formats)
        for precision in dict.fromkeys(recipe.precisions)
        for form in (dict.fromkeys(recipe.int8_forms) if _has_forms(file_format, precision) else ()) or (None,)
    )


def _has_forms(file_format: Format, precision: Precision) -> bool:
    return file_format is Format.ONNX and precision is Precision.INT8


def suited_to(fleet: Fleet, recipes: Iterable[Recipe]) -> tuple[Recipe, ...]:
    """The recipes with what they leave open settled as the fleet's boards want it.

    Each static int8 file comes in the forms that they compute best, and passes cut layers to widths that suit the
    kernels of all: `round_to` is the largest `channel_multiple` there is.
    """
    kinds = [fleet.profile(device) for device in fleet.devices]
    multiple = max((kind.channel_multiple for kind in kinds), default=1)
    return tuple(
        dataclasses.replace(
            recipe,
            passes=tuple(_rounding_to(multiple, step) for step in recipe.passes),
            targets=tuple(formed for target in recipe.targets for formed in _formed(target, recipe, kinds)),
        )
        for recipe in recipes
    )


def _rounding_to(multiple: int, step: Pass) -> Pass:
    wrapped: Pass | None = getattr(step, "pass_", None)
    if wrapped is not None:
        return cast("Pass", dataclasses.replace(cast("Any", step), pass_=_rounding_to(multiple, wrapped)))
    if getattr(step, "round_to", multiple) is not None:
        return step
    return cast("Pass", dataclasses.replace(cast("Any", step), round_to=multiple))


def _formed(target: Target, recipe: Recipe, kinds: Sequence[DeviceProfile]) -> list[Target]:
    if target.form is not None or not _has_forms(target.format, target.precision):
        return [target]
    forms = list(dict.fromkeys(form for kind in kinds for form in kind.int8_forms(target.format)))
    for step in recipe.passes:
        # What a pass trains for may not go into all of them; where it goes into none, the exporter says why.
        trained: tuple[Int8Form, ...] = getattr(unwrapped(step), "int8_forms", tuple(Int8Form))
        forms = [form for form in forms if form in trained] or forms
    return [dataclasses.replace(target, form=form) for form in forms] or [target]


def load_fleet(folder: Path) -> Fleet:
    """Read `folder`/fleet.toml and the device profiles, the user's own included. Raises PlanError."""
    path = folder / FLEET_FILE
    document = _read(path, FleetFile, "run `edgedeploy init` to write one")
    profiles = load_profiles(folder / PROFILES_FOLDER)
    if repeated := first_repeated([table.name for table in document.device]):
        raise PlanError(f"{path}: device: the name `{repeated}` is used twice; give each board its own.")
    devices = []
    for i, table in enumerate(document.device):
        if table.profile not in profiles:
            raise PlanError(
                f"{path}: device[{i}].profile: no device profile `{table.profile}`"
                f"{did_you_mean(table.profile, profiles)}; there: {', '.join(sorted(profiles))}."
            )
        if table.accelerator is not None:
            there = profiles[table.profile].accelerator_names
            if table.accelerator not in there:
                raise PlanError(
                    f"{path}: device[{i}].accelerator: {table.profile} has no accelerator `{table.accelerator}`"
                    f"{did_you_mean(table.accelerator, there)}; there: {', '.join(there)}."
                )
        fields = table.model_dump()
        # Two addresses on this very machine disturb each other's timing even where the user did not say so.
        shares = table.shares or ("local:" if table.address == "local:" else None)
        deploy = DeploySettings(**fields.pop("deploy"))
        # On a phone the home is / and belongs to the system, and what lies on /sdcard may not be run.
        root = table.root or (PHONE_ROOT if table.address.startswith("adb:") else BOARD_ROOT)
        fields |= {"tags": tuple(table.tags), "shares": shares, "root": root, "deploy": deploy}
        devices.append(Device(**fields))
    return Fleet(tuple(devices), profiles)


def load_profiles(extra: Path | None = None) -> dict[str, DeviceProfile]:
    """The shipped device profiles by name, and those of the folder `extra`, which win. Raises PlanError."""
    here = Path(__file__).resolve().parents[1]
    # A wheel carries the folder inside the package; an editable install has it beside the package.
    shipped = next((f for f in (here / PROFILES_FOLDER, here.parent / PROFILES_FOLDER) if f.is_dir()), None)
    folders = [folder for folder in (shipped, extra) if folder is not None and folder.is_dir()]
    return {path.stem: _load_profile(path) for folder in folders for path in sorted(folder.glob("*.toml"))}


def _load_profile(path: Path) -> DeviceProfile:
    document = _read(path, ProfileFile, "device profiles are TOML files")
    runtimes = [runtime.name for runtime in document.runtime]
    for i, accelerator in enumerate(document.accelerator):
        if accelerator.runtime not in runtimes:
            raise PlanError(
                f"{path}: accelerator[{i}].runtime: no runtime `{accelerator.runtime}`"
                f"{did_you_mean(accelerator.runtime, runtimes)}; there: {', '.join(runtimes)}."
            )
    if repeated := first_repeated(
        f"{accelerator.name} of {accelerator.runtime} for {precision}"
        for accelerator in document.accelerator
        for precision in accelerator.precisions
    ):
        raise PlanError(f"{path}: accelerator: {repeated} is there twice; keep one of them.")
    return DeviceProfile(
        name=path.stem,
        title=document.title,
        arch=document.arch,
        clusters=tuple(CpuCluster(**cluster.model_dump()) for cluster in document.cpu),
        isa=tuple(document.isa),
        memory_bytes=document.memory_bytes,
        runtimes=tuple(
            RuntimeSupport(
                r.name,
                r.format,
                tuple(r.precisions),
                tuple(Int8Preference(p.form, tuple(p.isa)) for p in r.int8),
                r.max_opset,
                tuple(r.fp16_isa),
            )
            for r in document.runtime
        ),
        transports=tuple(document.transports),
        accelerators=tuple(Accelerator(**table.model_dump()) for table in document.accelerator),
        power_source=document.power_source,
        power_note=document.power_note,
        max_temperature_c=document.max_temperature_c,
        channel_multiple=document.channel_multiple,
        limits=Limits(**document.limits.model_dump()),
    )


def _read(
    path: Path,
    model: type[_File],
    mend: str,
    prepared: Callable[[Path, Mapping[str, Any]], Mapping[str, Any]] = lambda _, table: table,
) -> _File:
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise PlanError(f"{path}: not there; {mend}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: cannot be read: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{path}: not valid TOML: {error}.") from error
    try:
        return model.model_validate(prepared(path, table))
    except ValidationError as error:
        raise PlanError(first_mistake(path, "", error, model)) from error
