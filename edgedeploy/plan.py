"""Turns the files a user writes into typed values, and names file, key and mend of every mistake in them."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from edgedeploy.errors import PlanError
from edgedeploy.records import (
    CpuCluster,
    Device,
    DeviceProfile,
    Format,
    Limits,
    Pass,
    Precision,
    Recipe,
    RuntimeSupport,
    Target,
)

PLAN_FILE = "edgedeploy.toml"
FLEET_FILE = "fleet.toml"
PROFILES_FOLDER = "device_profiles"

Objective = Literal["latency", "file", "memory", "energy"]
Mode = Literal["smoke", "quick", "full"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveNumber = Annotated[float, Field(gt=0)]
PositiveInteger = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class Goal:
    """What to minimise among the variants that keep within the limits."""

    minimise: Objective
    limits: Limits


@dataclass(frozen=True, slots=True)
class Plan:
    """A project's edgedeploy.toml.

    `train` is the pass that makes the source weights where the file says how; `project` is the name under which
    a shared database knows the project, empty for a database of its own.
    """

    folder: Path
    task_file: Path
    weights: Path | None
    train: Pass | None
    goal: Goal
    recipes: tuple[Recipe, ...]
    mode: Mode
    threads: int
    project: str
    store_url: str | None


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


# -- the files as written ------------------------------------------------------------------------------------


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _TaskTable(_Table):
    file: str
    weights: str | None = None


class _GoalTable(_Table):
    minimise: Objective = "latency"
    min_quality: Fraction | None = None
    max_drop: Fraction | None = None
    max_p50_ms: PositiveNumber | None = None
    max_p90_ms: PositiveNumber | None = None
    max_energy_mj: PositiveNumber | None = None
    max_file_bytes: PositiveInteger | None = None
    max_peak_rss_bytes: PositiveInteger | None = None


class _RecipeTable(_Table):
    name: Name
    passes: list[dict[str, Any]] = []
    formats: Annotated[list[Format], Field(min_length=1)]
    precisions: Annotated[list[Precision], Field(min_length=1)]


class _ProfileTable(_Table):
    mode: Mode = "quick"
    threads: PositiveInteger = 1


class _StoreTable(_Table):
    project: Name | None = None
    url: str | None = None


class _PlanFile(_Table):
    task: _TaskTable
    train: dict[str, Any] | None = None
    goal: _GoalTable = _GoalTable()
    recipe: Annotated[list[_RecipeTable], Field(min_length=1)]
    profile: _ProfileTable = _ProfileTable()
    store: _StoreTable = _StoreTable()


class _DeviceTable(_Table):
    name: Name
    profile: str
    address: Annotated[str, Field(pattern=r"^(local:$|[a-z]+://\S+$)")]
    root: str = "~/.edgedeploy"
    python: str | None = None
    ssh_config: str | None = None
    shares: str | None = None
    emulated: bool = False
    tags: list[str] = []


class _FleetFile(_Table):
    device: list[_DeviceTable] = []


class _CpuTable(_Table):
    core: str
    count: PositiveInteger
    max_mhz: PositiveInteger | None = None


class _RuntimeTable(_Table):
    name: str
    format: Format
    precisions: Annotated[list[Precision], Field(min_length=1)]


class _LimitsTable(_Table):
    max_file_bytes: PositiveInteger | None = None
    max_peak_rss_bytes: PositiveInteger | None = None


class _ProfileFile(_Table):
    title: str
    arch: str
    memory_bytes: PositiveInteger
    transports: Annotated[list[Literal["local", "ssh", "adb"]], Field(min_length=1)]
    accelerators: list[str] = []
    isa: list[str] = []
    power_source: Literal["rapl", "ina3221", "pi5-pmic", "battery"] | None = None
    power_note: str | None = None
    max_temperature_c: PositiveNumber | None = None
    cpu: Annotated[list[_CpuTable], Field(min_length=1)]
    runtime: Annotated[list[_RuntimeTable], Field(min_length=1)]
    limits: _LimitsTable = _LimitsTable()


# -- reading -------------------------------------------------------------------------------------------------

_File = TypeVar("_File", bound=BaseModel)


def load_plan(folder: Path, passes: Mapping[str, type[Pass]]) -> Plan:
    """Read `folder`/edgedeploy.toml. `passes` maps a pass's kind to its dataclass. Raises PlanError."""
    path = folder / PLAN_FILE
    document = _read(path, _PlanFile, "run `edgedeploy init` to write one")
    names = [recipe.name for recipe in document.recipe]
    if repeated := _first_repeated(names):
        raise PlanError(f"{path}: recipe: the name `{repeated}` is used twice; give each recipe its own.")
    recipes = tuple(
        Recipe(
            name=recipe.name,
            passes=tuple(
                _parse_pass(path, f"recipe[{i}].passes[{j}]", table, passes) for j, table in enumerate(recipe.passes)
            ),
            targets=tuple(
                Target(f, p) for f in dict.fromkeys(recipe.formats) for p in dict.fromkeys(recipe.precisions)
            ),
        )
        for i, recipe in enumerate(document.recipe)
    )
    train = None
    if document.train is not None:
        if document.task.weights is None:
            raise PlanError(
                f'{path}: task.weights: missing; name the file that [train] is to write, e.g. "weights.safetensors".'
            )
        train = _parse_pass(path, "train", {"kind": "fine-tune", **document.train}, passes)
    if document.store.url is not None and document.store.project is None:
        raise PlanError(f"{path}: store.project: missing; a database may hold several projects, so name this one.")
    goal = document.goal.model_dump()
    return Plan(
        folder=folder,
        task_file=folder / document.task.file,
        weights=folder / document.task.weights if document.task.weights else None,
        train=train,
        goal=Goal(goal.pop("minimise"), Limits(**goal)),
        recipes=recipes,
        mode=document.profile.mode,
        threads=document.profile.threads,
        project=document.store.project or "",
        store_url=document.store.url,
    )


def load_fleet(folder: Path) -> Fleet:
    """Read `folder`/fleet.toml and the device profiles, the user's own included. Raises PlanError."""
    path = folder / FLEET_FILE
    document = _read(path, _FleetFile, "run `edgedeploy init` to write one")
    profiles = load_profiles(folder / PROFILES_FOLDER)
    if repeated := _first_repeated([table.name for table in document.device]):
        raise PlanError(f"{path}: device: the name `{repeated}` is used twice; give each board its own.")
    devices = []
    for i, table in enumerate(document.device):
        if table.profile not in profiles:
            raise PlanError(
                f"{path}: device[{i}].profile: no device profile `{table.profile}`"
                f"{did_you_mean(table.profile, profiles)}; there: {', '.join(sorted(profiles))}."
            )
        fields = table.model_dump()
        # Two addresses on this very machine disturb each other's timing even where the user did not say so.
        shares = table.shares or ("local:" if table.address == "local:" else None)
        devices.append(Device(**{**fields, "tags": tuple(table.tags), "shares": shares}))
    return Fleet(tuple(devices), profiles)


def load_profiles(extra: Path | None = None) -> dict[str, DeviceProfile]:
    """The shipped device profiles by name, and those of the folder `extra`, which win. Raises PlanError."""
    here = Path(__file__).resolve().parent
    # A wheel carries the folder inside the package; an editable install has it beside the package.
    shipped = next((f for f in (here / PROFILES_FOLDER, here.parent / PROFILES_FOLDER) if f.is_dir()), None)
    folders = [folder for folder in (shipped, extra) if folder is not None and folder.is_dir()]
    return {path.stem: _load_profile(path) for folder in folders for path in sorted(folder.glob("*.toml"))}


def _load_profile(path: Path) -> DeviceProfile:
    document = _read(path, _ProfileFile, "device profiles are TOML files")
    return DeviceProfile(
        name=path.stem,
        title=document.title,
        arch=document.arch,
        clusters=tuple(CpuCluster(**cluster.model_dump()) for cluster in document.cpu),
        isa=tuple(document.isa),
        memory_bytes=document.memory_bytes,
        runtimes=tuple(RuntimeSupport(r.name, r.format, tuple(r.precisions)) for r in document.runtime),
        transports=tuple(document.transports),
        accelerators=tuple(document.accelerators),
        power_source=document.power_source,
        power_note=document.power_note,
        max_temperature_c=document.max_temperature_c,
        limits=Limits(**document.limits.model_dump()),
    )


def _read(path: Path, model: type[_File], mend: str) -> _File:
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise PlanError(f"{path}: not there; {mend}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: cannot be read: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{path}: not valid TOML: {error}.") from error
    try:
        return model.model_validate(table)
    except ValidationError as error:
        raise PlanError(_first_mistake(path, "", error, model)) from error


def _parse_pass(path: Path, key: str, table: Mapping[str, Any], passes: Mapping[str, type[Pass]]) -> Pass:
    settings = dict(table)
    kind = settings.pop("kind", None)
    if not isinstance(kind, str) or kind not in passes:
        found = "missing" if kind is None else f"found {kind!r}{did_you_mean(str(kind), passes)}"
        raise PlanError(f"{path}: {key}.kind: {found}; expected one of {', '.join(sorted(passes))}.")
    cls = cast("type[Any]", passes[kind])
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    for name in settings:
        if name not in known:
            raise PlanError(_unknown_key(path, f"{key}.{name}", name, known))
    try:
        return cast("Pass", TypeAdapter(cls).validate_python(settings))
    except ValidationError as error:
        raise PlanError(_first_mistake(path, key, error, None)) from error


# -- saying what is wrong ------------------------------------------------------------------------------------


def _first_mistake(path: Path, prefix: str, error: ValidationError, model: type[BaseModel] | None) -> str:
    mistakes = error.errors(include_url=False)
    # A misspelt key shows twice, as one unknown and one missing: the unknown one tells more.
    first = min(mistakes, key=lambda mistake: mistake["type"] != "extra_forbidden")
    location = first["loc"]
    key = prefix + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    key = key.lstrip(".")
    if first["type"] == "extra_forbidden":
        return _unknown_key(path, key, str(location[-1]), _keys_at(model, location[:-1]))
    if first["type"] == "missing":
        return f"{path}: {key}: missing; add it."
    expected = first["msg"][0].lower() + first["msg"][1:]
    if first["type"] == "value_error":
        expected = str(first["ctx"]["error"])
    found = repr(first["input"])
    return f"{path}: {key}: found {found if len(found) < 80 else found[:77] + '...'}: {expected}."


def _unknown_key(path: Path, key: str, name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    return f"{path}: {key}: unknown key{did_you_mean(name, known)}; expected one of {', '.join(known)}."


def _keys_at(model: type[BaseModel] | None, location: tuple[int | str, ...]) -> list[str]:
    """The keys that the table at `location` may have."""
    for part in location:
        if model is None or isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        candidates = (annotation, *getattr(annotation, "__args__", ()))
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
    return list(model.model_fields) if model else []


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint at the known word closest to this one, or nothing where none is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""


def _first_repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
