"""The files that a user writes, as pydantic checks them: one class a table, one field a key."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from edgedeploy.plan.values import Mode, Objective
from edgedeploy.records import CPU, CalibrationMethod, Format, Int8Form, Precision

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
# A metric may be an error in any unit, so that neither it nor its drop ends at 1.
Number = Annotated[float, Field(allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveNumber = Annotated[float, Field(gt=0)]
PositiveInteger = Annotated[int, Field(gt=0)]
Wait = Annotated[float, Field(gt=0, le=3600)]
Command = Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], Field(min_length=1, max_length=64)]
Unit = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9@:._-]{0,200}$")]


def _address(text: str) -> str:
    if re.fullmatch(r"local:|[a-z]+://\S+", text):
        return text
    if text in {"adb:", "adb://"}:
        # adb takes the only phone where none is named, and another one on the day that another is plugged in
        raise ValueError(
            "it names no phone; `edgedeploy devices discover` or `adb devices -l` lists those that adb sees"
        )
    raise ValueError("it is no address; write `local:`, `ssh://[user@]host[:port]` or `adb://serial`")


class Table(BaseModel):
    """A table that knows every key it may have."""

    model_config = ConfigDict(extra="forbid")


class TaskTable(Table):
    """[task] of edgedeploy.toml."""

    file: str
    weights: str | None = None
    source: Annotated[str, Field(pattern=r"\.(onnx|pt2)$")] | None = None


class GoalTable(Table):
    """[goal] of edgedeploy.toml."""

    minimise: Objective = "latency"
    min_quality: Number | None = None
    max_drop: NotNegative | None = None
    max_p50_ms: PositiveNumber | None = None
    max_p90_ms: PositiveNumber | None = None
    max_energy_mj: PositiveNumber | None = None
    max_file_bytes: PositiveInteger | None = None
    max_peak_rss_bytes: PositiveInteger | None = None


class CalibrationTable(Table):
    """`calibration` of a [[recipe]]."""

    method: CalibrationMethod = "minmax"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    examples: PositiveInteger = 128


class RecipeTable(Table):
    """A [[recipe]] of edgedeploy.toml."""

    name: Name
    ready: str | None = None
    passes: list[dict[str, Any]] = []
    formats: Annotated[list[Format], Field(min_length=1)]
    precisions: Annotated[list[Precision], Field(min_length=1)]
    int8_forms: list[Int8Form] = []
    calibration: CalibrationTable | None = None
    batch: PositiveInteger | None = None
    max_drop: NotNegative | None = None


class ProfileTable(Table):
    """[profile] of edgedeploy.toml."""

    mode: Mode = "quick"
    threads: PositiveInteger = 1
    accelerator: Name = CPU


class StoreTable(Table):
    """[store] of edgedeploy.toml."""

    project: Name | None = None
    url: str | None = None


class DeployTable(Table):
    """[deploy] of edgedeploy.toml, and [device.deploy] of fleet.toml."""

    key: Name | None = None
    valid_days: Annotated[float, Field(gt=0, le=3650)] | None = None
    reload: Command | None = None
    reload_timeout_s: Wait | None = None
    health: Command | None = None
    health_timeout_s: Wait | None = None
    unit: Unit | None = None
    user_unit: Unit | None = None
    attempts: Annotated[int, Field(ge=1, le=10)] | None = None
    pause_s: Annotated[float, Field(ge=0, le=60)] | None = None
    max_slowdown: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    steady_s: Annotated[float, Field(gt=0, le=600)] | None = None

    @model_validator(mode="after")
    def _is_one_way(self) -> DeployTable:
        given = [name for name in ("unit", "user_unit") if getattr(self, name) is not None]
        if self.reload is not None or self.health is not None:
            given.append("reload and health")
        if len(given) > 1:
            raise ValueError(f"says twice how to tell the application, by {' and by '.join(given)}; keep one")
        return self


class PlanFile(Table):
    """edgedeploy.toml."""

    task: TaskTable
    train: dict[str, Any] | None = None
    goal: GoalTable = GoalTable()
    recipe: Annotated[list[RecipeTable], Field(min_length=1)]
    profile: ProfileTable = ProfileTable()
    store: StoreTable = StoreTable()
    deploy: DeployTable = DeployTable()


class DeviceTable(Table):
    """A [[device]] of fleet.toml."""

    name: Name
    profile: str
    address: Annotated[str, AfterValidator(_address)]
    root: str | None = None
    python: str | None = None
    ssh_config: str | None = None
    adb_server_port: Annotated[int, Field(gt=0, lt=65536)] | None = None
    shares: str | None = None
    accelerator: Name | None = None
    emulated: bool = False
    deploy: DeployTable = DeployTable()
    tags: list[str] = []


class FleetFile(Table):
    """fleet.toml."""

    device: list[DeviceTable] = []


class CpuTable(Table):
    """A [[cpu]] of a device profile."""

    core: str
    count: PositiveInteger
    max_mhz: PositiveInteger | None = None


class Int8Table(Table):
    """An entry of `int8` of a [[runtime]]."""

    form: Int8Form
    isa: list[str] = []


class RuntimeTable(Table):
    """A [[runtime]] of a device profile."""

    name: str
    format: Format
    precisions: Annotated[list[Precision], Field(min_length=1)]
    int8: list[Int8Table] = []
    fp16_isa: list[str] = []
    max_opset: PositiveInteger | None = None


class AcceleratorTable(Table):
    """An [[accelerator]] of a device profile."""

    name: Name
    runtime: str
    precisions: Annotated[tuple[Precision, ...], Field(min_length=1)]
    int8: tuple[Int8Form, ...] = ()
    provider: str | None = None
    library: str | None = None
    device: Literal["cpu", "gpu", "npu"] | None = None
    then: tuple[str, ...] = ()
    delegate: str | None = None
    options: dict[str, str] = {}
    session: dict[str, str] = {}
    tried: bool = False

    @model_validator(mode="after")
    def _is_one_thing(self) -> AcceleratorTable:
        if self.name == CPU:
            raise ValueError(f"{CPU} is what every board has; give this one another name")
        if self.provider is not None and self.delegate is not None:
            raise ValueError("has a provider and a delegate; a runtime takes one of them")
        if self.provider is None and (self.library is not None or self.then or self.session):
            raise ValueError("library, then and session are for a provider; name the provider too")
        if self.library is None and self.device is not None:
            raise ValueError("device is for a provider that comes from a library; name the library too")
        return self


class LimitsTable(Table):
    """[limits] of a device profile."""

    max_file_bytes: PositiveInteger | None = None
    max_peak_rss_bytes: PositiveInteger | None = None


class ProfileFile(Table):
    """A device profile."""

    title: str
    arch: str
    memory_bytes: PositiveInteger
    transports: Annotated[list[Literal["local", "ssh", "adb"]], Field(min_length=1)]
    isa: list[str] = []
    channel_multiple: PositiveInteger = 1
    power_source: Literal["rapl", "ina3221", "pi5-pmic", "battery"] | None = None
    power_note: str | None = None
    max_temperature_c: PositiveNumber | None = None
    cpu: Annotated[list[CpuTable], Field(min_length=1)]
    runtime: Annotated[list[RuntimeTable], Field(min_length=1)]
    accelerator: list[AcceleratorTable] = []
    limits: LimitsTable = LimitsTable()
