"""Kinds of board and single boards, and the limits they and their users set."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgedeploy.records.asked import Format, Int8Form, Precision, Target


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

    `int8` is in order of preference and empty where the format leaves no choice.
    """

    name: str
    format: Format
    precisions: tuple[Precision, ...]
    int8: tuple[Int8Preference, ...] = ()


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
    None where the board has no sensor.
    """

    name: str
    title: str
    arch: str
    clusters: tuple[CpuCluster, ...]
    isa: tuple[str, ...]
    memory_bytes: int
    runtimes: tuple[RuntimeSupport, ...]
    transports: tuple[str, ...]
    accelerators: tuple[str, ...] = ()
    power_source: str | None = None
    power_note: str | None = None
    max_temperature_c: float | None = None
    limits: Limits = field(default_factory=Limits)

    def int8_forms(self, file_format: Format) -> tuple[Int8Form, ...]:
        """The forms of static int8 to make for this kind of board; empty where the format leaves no choice.

        One for each runtime where `isa` says what the cores have; where it says nothing, all that they may want.
        """
        forms: dict[Int8Form, None] = {}
        for runtime in self.runtimes:
            if runtime.format == file_format:
                fitting = [p.form for p in runtime.int8 if not self.isa or set(p.isa) <= set(self.isa)]
                forms |= dict.fromkeys(fitting[:1] if self.isa else fitting)
        return tuple(forms)

    def can_run(self, target: Target) -> bool:
        """Whether some runtime of this kind of board takes the target's format and precision, in a form it wants."""
        forms = self.int8_forms(target.format)
        if target.form is not None and forms and target.form not in forms:
            return False
        return any(r.format == target.format and target.precision in r.precisions for r in self.runtimes)


@dataclass(frozen=True, slots=True)
class Device:
    """One board. `address` is `local:` or `ssh://[user@]host[:port]`.

    `root` is the folder on the board that edgedeploy owns; `~` is the home of the user who logs in. `shares`
    names a resource that boards on one host share, so that they are never measured at once.
    """

    name: str
    profile: str
    address: str
    root: str = "~/.edgedeploy"
    python: str | None = None
    ssh_config: str | None = None
    shares: str | None = None
    emulated: bool = False
    tags: tuple[str, ...] = ()
