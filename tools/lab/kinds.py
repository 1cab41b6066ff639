"""The kinds of virtual board: what each has aboard and how its hardware behaves, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

MIB = 1 << 20

_SYSTEM = (
    *("base-files", "bash", "coreutils", "dash", "debianutils", "findutils", "grep", "gzip", "hostname", "iproute2"),
    *("iputils-ping", "libc-bin", "login", "mawk", "mount", "procps", "sed", "tar", "util-linux"),
)
# libstdc++ and libgomp come with every Raspberry Pi OS and JetPack, and the runtimes want them.
LINUX = (*_SYSTEM, "openssh-client", "openssh-server", "openssh-sftp-server", "python3", "libstdc++6", "libgomp1")
# What a board's Debian starts with; roots share it, and a board without it has another first process.
_SYSTEMD = ("systemd-sysv", "libpam-systemd", "dbus", "dbus-user-session", "polkitd", "sudo")
PHONE = (*_SYSTEM, "adbd")


@dataclass(frozen=True, slots=True)
class RootKind:
    """A root file system that boards share; `backports` are the packages wanted from there."""

    arch: Literal["arm64", "amd64"]
    packages: tuple[str, ...]
    backports: bool = False


ROOTS: Mapping[str, RootKind] = {
    "linux-arm64": RootKind("arm64", LINUX),
    "linux-amd64": RootKind("amd64", (*LINUX, *_SYSTEMD)),
    "phone-arm64": RootKind("arm64", PHONE, backports=True),
}


@dataclass(frozen=True, slots=True)
class Core:
    """So many equal cores; frequencies in kHz."""

    count: int
    min_khz: int
    max_khz: int


@dataclass(frozen=True, slots=True)
class Physics:
    """How heat, power and clocks follow the load, which is counted in busy cores.

    power_w = idle_w + per_core_w * load; the temperature goes to ambient_c + kelvin_per_w * power_w with the time
    constant `settling_s`. At `throttle_c` the board slows down to its lowest clock.
    """

    idle_w: float
    per_core_w: float
    ambient_c: float
    kelvin_per_w: float
    settling_s: float
    throttle_c: float


@dataclass(frozen=True, slots=True)
class BoardKind:
    """A board of the lab.

    `sample` names the folder of sample outputs whose /proc/cpuinfo and model it shows. `memory_bytes` is the limit
    on its processes, `disk_bytes` and `inodes` the size of its storage. `without` are paths that are removed from
    its root. `qemu_cpu` is the core that qemu plays, or the nearest that it has: what its `max` makes of instructions
    that this board does not have is wrong in parts (qemu 7.2: int8 in XNNPACK). `init` is its first process: a shell
    that keeps its server running, or the systemd of its root.
    """

    name: str
    profile: str
    root: str
    sample: str
    user: str
    governor: str
    cores: tuple[Core, ...]
    physics: Physics
    memory_bytes: int
    disk_bytes: int = 1024 * MIB
    inodes: int = 32_768
    link: Literal["ssh", "adb"] = "ssh"
    without: tuple[str, ...] = ()
    qemu_cpu: str = ""
    init: Literal["shell", "systemd"] = "shell"

    @property
    def emulated(self) -> bool:
        """Whether its programs are translated rather than run."""
        return ROOTS[self.root].arch == "arm64"

    @property
    def cpus(self) -> int:
        """How many cores it shows."""
        return sum(core.count for core in self.cores)


_PI4 = Physics(idle_w=2.7, per_core_w=0.9, ambient_c=25, kelvin_per_w=7.0, settling_s=20, throttle_c=80)
_PI5 = Physics(idle_w=2.6, per_core_w=1.5, ambient_c=25, kelvin_per_w=6.5, settling_s=15, throttle_c=85)
_ORIN = Physics(idle_w=4.5, per_core_w=1.2, ambient_c=25, kelvin_per_w=4.0, settling_s=25, throttle_c=99)
_PHONE = Physics(idle_w=0.9, per_core_w=1.1, ambient_c=25, kelvin_per_w=9.0, settling_s=20, throttle_c=90)
_BOX = Physics(idle_w=6.0, per_core_w=5.0, ambient_c=25, kelvin_per_w=2.0, settling_s=10, throttle_c=100)

_PYTHON = ("usr/bin/python3*", "usr/lib/python3*", "usr/share/python3*")

BOARDS: Mapping[str, BoardKind] = {
    kind.name: kind
    for kind in (
        BoardKind(
            *("pi4", "pi4", "linux-arm64", "pi4", "pi", "ondemand"),
            (Core(4, 600_000, 1_500_000),),
            _PI4,
            1024 * MIB,
            qemu_cpu="cortex-a72",
        ),
        BoardKind(
            *("pi5", "pi5", "linux-arm64", "pi5", "pi", "ondemand"),
            (Core(4, 1_500_000, 2_400_000),),
            _PI5,
            2048 * MIB,
            qemu_cpu="cortex-a76",
        ),
        BoardKind(
            *("jetson", "jetson-orin-nano", "linux-arm64", "jetson-orin-nano", "nvidia", "schedutil"),
            (Core(6, 115_200, 1_510_400),),
            _ORIN,
            2048 * MIB,
            qemu_cpu="cortex-a76",
        ),
        BoardKind(
            "x86",
            "x86-64",
            "linux-amd64",
            "x86-64",
            "edge",
            "powersave",
            (Core(4, 400_000, 4_100_000),),
            _BOX,
            2048 * MIB,
        ),
        BoardKind(
            *("phone", "pixel-8", "phone-arm64", "pixel-8", "shell", "sched_pixel"),
            (Core(4, 324_000, 1_704_000), Core(4, 324_000, 2_367_000), Core(1, 324_000, 2_914_000)),
            _PHONE,
            2048 * MIB,
            link="adb",
            qemu_cpu="cortex-a76",
        ),
        BoardKind(
            *("old", "pi4", "linux-arm64", "pi4", "pi", "ondemand"),
            (Core(4, 600_000, 1_500_000),),
            _PI4,
            512 * MIB,
            disk_bytes=256 * MIB,
            without=_PYTHON,
            qemu_cpu="cortex-a72",
        ),
        BoardKind(
            *("systemd", "x86-64", "linux-amd64", "x86-64", "edge", "powersave"),
            (Core(4, 400_000, 4_100_000),),
            _BOX,
            2048 * MIB,
            init="systemd",
        ),
    )
}
