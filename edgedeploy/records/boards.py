"""Kinds of board and single boards, and the limits they and their users set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgedeploy.records.asked import ONNX_OPSET, Format, Int8Form, Precision, Target
from edgedeploy.records.deployed import DeploySettings

CPU = "cpu"  # the accelerator that every board has and no profile names


@dataclass(frozen=True, slots=True)
class CpuCluster:
    """Identical cores of a board."""

    core: str
    count: int
    max_mhz: int | None = None


@dataclass(frozen=True, slots=True)
class Int8Preference:
    """The form of static int8 that a runtime computes best on cores that have all features of `isa`."""

    form: Int8Form
    isa: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RuntimeSupport:
    """An inference runtime that a kind of board can run, and the formats and precisions it takes there.

    `int8` is in order of preference and empty where the format leaves no choice. `max_opset` is the last opset of ONNX
    that it reads, None where that is no matter. `fp16_isa` names what cores must have for it to compute halves as
    halves, and is empty where it makes floats of them on any.
    """

    name: str
    format: Format
    precisions: tuple[Precision, ...]
    int8: tuple[Int8Preference, ...] = ()
    max_opset: int | None = None
    fp16_isa: tuple[str, ...] = ()

    @property
    def too_old(self) -> bool:
        """Whether it was made before the opset in which ONNX files are written."""
        return self.format is Format.ONNX and self.max_opset is not None and self.max_opset < ONNX_OPSET


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What one runtime can compute on besides its kernels for the CPU, and how it is switched on there.

    `provider` is an execution provider of ONNX Runtime, from `library` and for one kind of `device` where it is a
    plugin, and `then` those that get the nodes it leaves, before the CPU does. `delegate` is the library of a
    TensorFlow Lite delegate. Where there is neither, the runtime applies it by itself. `options` go to the provider
    or delegate, `session` are entries of the session's configuration; on the board `{threads}` in a value becomes the
    number of threads and `{cache}` a folder that keeps what was made of the file. `int8` names the forms of static
    int8 that it takes, empty for all. `tried` says whether this project has ever seen it run. Where precisions want
    other options, each has a record of its own under the same name.
    """

    name: str
    runtime: str
    precisions: tuple[Precision, ...]
    int8: tuple[Int8Form, ...] = ()
    provider: str | None = None
    library: str | None = None
    device: Literal["cpu", "gpu", "npu"] | None = None
    then: tuple[str, ...] = ()
    delegate: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    session: Mapping[str, str] = field(default_factory=dict)
    tried: bool = False

    def takes(self, target: Target) -> bool:
        """Whether it takes the target's precision, in its form."""
        return target.precision in self.precisions and (
            target.form is None or not self.int8 or target.form in self.int8
        )

    @property
    def caches(self) -> bool:
        """Whether it keeps what it made of a file, and so may be long over its first run."""
        return any("{cache}" in value for value in (*self.options.values(), *self.session.values()))


@dataclass(frozen=True, slots=True)
class Limits:
    """Constraints; None where there is none. Used both for what a board bears and for what a user wants."""

    max_file_bytes: int | None = None
    max_peak_rss_bytes: int | None = None
    max_p50_ms: float | None = None
    max_p90_ms: float | None = None
    max_energy_mj: float | None = None
    min_quality: float | None = None
    max_drop: float | None = None


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """A kind of board.

    `power_source` is what its agent can read on the board itself ("rapl", "ina3221", "pi5-pmic", "battery") or
    None where the board has no sensor. Its kernels work in blocks of `channel_multiple` channels and leave a part of
    them idle at other widths.
    """

    name: str
    title: str
    arch: str
    clusters: tuple[CpuCluster, ...]
    isa: tuple[str, ...]
    memory_bytes: int
    runtimes: tuple[RuntimeSupport, ...]
    transports: tuple[str, ...]
    accelerators: tuple[Accelerator, ...] = ()
    power_source: str | None = None
    power_note: str | None = None
    max_temperature_c: float | None = None
    channel_multiple: int = 1
    limits: Limits = field(default_factory=Limits)

    def int8_forms(self, file_format: Format) -> tuple[Int8Form, ...]:
        """The forms of static int8 to make for this kind of board; empty where the format leaves no choice.

        One for each runtime where `isa` says what the cores have; where it says nothing, all that they may want. And
        the first of each accelerator that does not take all.
        """
        forms: dict[Int8Form, None] = {}
        for runtime in self.runtimes:
            if runtime.format == file_format:
                fitting = [p.form for p in runtime.int8 if not self.isa or set(p.isa) <= set(self.isa)]
                forms |= dict.fromkeys(fitting[:1] if self.isa else fitting)
                forms |= dict.fromkeys(f for a in self.accelerators if a.runtime == runtime.name for f in a.int8[:1])
        return tuple(forms)

    def can_run(self, target: Target) -> bool:
        """Whether some runtime of this kind of board takes the target's format and precision, in a form it wants."""
        return not self.why_not(target)

    def why_not(self, target: Target) -> str:
        """Why this kind of board cannot run the target, or ""."""
        fitting = [r for r in self.runtimes if r.format == target.format and target.precision in r.precisions]
        if fitting and all(runtime.too_old for runtime in fitting):
            newest = max(fitting, key=lambda runtime: runtime.max_opset or 0)
            return (
                f"its opset {ONNX_OPSET} is above {newest.max_opset}, the last that {newest.name} of {self.name} reads"
            )
        forms = self.int8_forms(target.format)
        if not fitting or (target.form is not None and forms and target.form not in forms):
            return f"no runtime of the profile {self.name} runs {target}"
        return ""

    def storage_only(self, target: Target) -> str:
        """Why halves are smaller and no faster on the CPU of this kind of board, or ""; integers tell by themselves."""
        runtimes = [runtime for runtime in self.runtimes if runtime.format == target.format]
        if target.precision is not Precision.FP16 or not runtimes:
            return ""
        able = [runtime for runtime in runtimes if runtime.fp16_isa]
        if not able:
            return f"{' and '.join(r.name for r in runtimes)} makes floats of halves on this kind of board"
        lacking = [feature for feature in able[0].fp16_isa if self.isa and feature not in self.isa]
        return f"its cores compute no halves (no {', '.join(lacking)})" if lacking else ""

    @property
    def accelerator_names(self) -> tuple[str, ...]:
        """What a measurement on this kind of board may be asked to run on."""
        return (CPU, *dict.fromkeys(accelerator.name for accelerator in self.accelerators))

    def accelerator(self, name: str, target: Target) -> Accelerator | None:
        """The accelerator of that name that takes a target; None for the CPU, and where there is none that does."""
        runtimes = {runtime.name for runtime in self.runtimes if runtime.format == target.format}
        fitting = (a for a in self.accelerators if a.name == name and a.runtime in runtimes)
        return next((a for a in fitting if a.takes(target)), None)

    def unfit(self, target: Target, name: str) -> str:
        """Why a target that this kind of board can run is not for the accelerator of that name, or ""."""
        if name == CPU or self.accelerator(name, target) is not None:
            return ""
        runtimes = {runtime.name for runtime in self.runtimes if runtime.format == target.format}
        called = [a for a in self.accelerators if a.name == name and a.runtime in runtimes]
        if not called:
            return f"{self.name} has no {name} for {target.format} files"
        precisions = dict.fromkeys(precision for a in called for precision in a.precisions)
        if target.precision not in precisions:
            return f"{name} takes {', '.join(precisions)} there, not {target.precision}"
        forms = dict.fromkeys(form for a in called if target.precision in a.precisions for form in a.int8)
        return f"{name} takes {target.precision} as {', '.join(forms)} there, not {target.form}"


@dataclass(frozen=True, slots=True)
class Device:
    """One board. `address` is `local:`, `ssh://[user@]host[:port]` or `adb://serial`.

    `root` is the folder on the board that edgedeploy owns; `~` is the home of the user who logs in. `shares`
    names a resource that boards on one host share, so that they are never measured at once. `accelerator` is what to
    measure on, None for what the plan says. `adb_server_port` is where a phone's adb server listens. `deploy` is what
    it wants otherwise than the plan about releases.
    """

    name: str
    profile: str
    address: str
    root: str = "~/.edgedeploy"
    python: str | None = None
    ssh_config: str | None = None
    shares: str | None = None
    accelerator: str | None = None
    adb_server_port: int | None = None
    emulated: bool = False
    deploy: DeploySettings = field(default_factory=DeploySettings)
    tags: tuple[str, ...] = ()

    @property
    def scheme(self) -> str:
        """How it is reached: "local", "ssh" or "adb"."""
        return self.address.partition(":")[0]
