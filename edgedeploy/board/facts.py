"""What a board says of itself in one round trip, before it has anything of ours, and whether that suffices."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from edgedeploy.board.elf import MACHINES, Version, version_of
from edgedeploy.board.probe_scripts import MARK, PROBE, PYTHON_PROBE
from edgedeploy.board.untrusted import printable
from edgedeploy.errors import BoardError, NoPython
from edgedeploy.on_device.facts import parse_isa
from edgedeploy.records import Device, DeviceProfile

OLDEST_PYTHON = (3, 7)

_DISK = re.compile(r"\s(\d+)\s+(\d+)\s+(-?\d+)\s+\d+%\s")
# The kernel's words for want of space or inodes, and for a file system that is not written to.
_FULL = ("No space left on device", "Disk quota exceeded")
_READ_ONLY = "Read-only file system"
_SOME_BYTES = 1 << 20
# What other systems than the kernel call a machine.
SAME_MACHINE = {"arm64": "aarch64", "amd64": "x86_64", "x86-64": "x86_64", "armhf": "armv7l"}
_64_BIT = {"aarch64", "x86_64", "riscv64"}
_32_BIT = {"armv7l", "i686"}
_ELF_MACHINES = {**MACHINES, (1, 3): "i686"}


@dataclass(frozen=True, slots=True)
class System:
    """What a board tells of itself without Python, as far as it does.

    `libc` is "glibc 2.36", "musl", "bionic" or "". `user_land` is the machine that its programs are built for, "" where
    it does not tell. `executable` says whether a file under the root can be run; where it cannot, one can in
    `executable_place`. `isa` holds the telling features that every core has. `other_python` is the
    version and the path of one that has wheels, where the one asked for has none. `has_ssh_keygen` says whether there
    is one that can check signatures.
    """

    libc: str = ""
    user_land: str = ""
    memory_bytes: int | None = None
    isa: tuple[str, ...] = ()
    model: str = ""
    executable: bool = False
    executable_place: str = ""
    has_tar: bool = False
    has_ssh_keygen: bool = False
    other_python: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class BoardFacts:
    """A board before any job; None where it does not tell.

    `user_land_bits` and `python_bits` are the widths of a pointer in the C library's view and in Python's.
    `root_trouble` is what the kernel says where the root is not writable, "" where that is not known.
    `agent_sha256` is the digest of the file that lies where the agent asked for should be. `empty` says that neither an
    object nor a part of one lies under the root. `has_numpy` says whether its Python can rebuild packed files. `bundle`
    is the digest of the provisioned runtime that is in use, `loader` the program that starts its Python where it brings
    one, `bundle_packages` what it holds.
    `release_bytes` is what its releases take, the active one and the one before, as far as it tells.
    """

    machine: str
    kernel: str
    user_land_bits: int | None
    root: str
    root_writable: bool
    free_bytes: int | None
    total_bytes: int | None
    python_found: bool
    python: str | None
    python_version: str | None
    python_bits: int | None
    agent_sha256: str | None
    empty: bool = False
    root_trouble: str = ""
    has_numpy: bool = False
    bundle: str | None = None
    loader: str | None = None
    bundle_packages: tuple[str, ...] = ()
    release_bytes: int = 0
    system: System = System()

    @property
    def interpreter(self) -> tuple[str, ...]:
        """The command that starts its Python; empty where none runs."""
        if self.python is None:
            return ()
        if self.loader is None or self.bundle is None:
            return (self.python,)
        return (self.loader, "--library-path", f"{self.root.rstrip('/')}/runtimes/{self.bundle}/lib", self.python)


def probe_command(root: str, python: str, agent_sha256: str, *, named: bool = False) -> list[str]:
    """The command whose standard output `parse_probe` reads; it makes the root's folders where it can.

    `named` says that the user asked for this Python, so that what was provisioned for another is not used.
    """
    return ["sh", "-c", PROBE, "probe", root, python, agent_sha256, PYTHON_PROBE, "named" if named else ""]


def parse_probe(text: str) -> BoardFacts:
    """Read what the probe printed, passing over whatever else a login shell says."""
    lines = [line.removeprefix(MARK).partition("=") for line in text.splitlines() if line.startswith(MARK)]
    said = {key: value.strip() for key, _, value in lines}
    disk = disk_space(said.get("disk", ""))
    return BoardFacts(
        machine=said.get("machine", ""),
        kernel=said.get("kernel", ""),
        user_land_bits=_number(said.get("user_land_bits")),
        root=said.get("root", ""),
        root_writable=said.get("writable") == "yes",
        free_bytes=disk[1] if disk else None,
        total_bytes=disk[0] if disk else None,
        python_found="python_found" in said,
        python=said.get("python") or None,
        python_version=said.get("python_version"),
        python_bits=_number(said.get("python_bits")),
        agent_sha256=said.get("agent_sha256"),
        empty=said.get("empty") == "yes",
        # after the program, and perhaps the path, that it is about
        root_trouble=printable(said.get("trouble", "").rpartition(": ")[2], 100),
        has_numpy=said.get("numpy") == "yes",
        bundle=said.get("bundle"),
        loader=said.get("loader"),
        bundle_packages=_bundle_packages(said.get("manifest", "")),
        release_bytes=sum(_kib(value) for key, _, value in lines if key == "release"),
        system=_system(said, cpus="\n".join(value.strip() for key, _, value in lines if key == "isa")),
    )


def disk_space(line: str) -> tuple[int, int] | None:
    """The bytes of a file system in all and those that are free, by its line of `df -P -k`; None where it is none."""
    found = _DISK.search(f"{line} ")
    return (int(found[1]) * 1024, max(0, int(found[3])) * 1024) if found else None


def python_minor(facts: BoardFacts) -> Version:
    """Major and minor version of the board's Python, (0, 0) where there is none."""
    return version_of(facts.python_version or "0.0")[:2]


def check_facts(facts: BoardFacts, device: Device, profile: DeviceProfile, python: str) -> None:
    """Raise BoardError when the board cannot do what its profile promises, or cannot run the agent."""
    check_machine(facts, device, profile)
    _check_python(facts, device.name, python)
    check_root(facts, device.name)


def machine_of(facts: BoardFacts) -> str:
    """The machine that programs must be built for: that of the user land, which may be narrower than the kernel's."""
    if facts.system.user_land:
        return facts.system.user_land
    machine = SAME_MACHINE.get(facts.machine, facts.machine)
    # what a 64-bit Arm kernel calls itself to a 32-bit program, and what such a user land really is
    narrow = machine == "armv8l" or (machine == "aarch64" and facts.user_land_bits == 32)
    return "armv7l" if narrow else machine


def check_machine(facts: BoardFacts, device: Device, profile: DeviceProfile) -> None:
    """Raise BoardError when it is no Linux board, or not the machine that its profile is for."""
    board = device.name
    if not facts.machine or not facts.root:
        raise BoardError(
            f"{board}: the board does not answer a POSIX shell's commands (sh, uname); is it a Linux board?"
        )
    machine = SAME_MACHINE.get(facts.machine, facts.machine)
    wanted = SAME_MACHINE.get(profile.arch, profile.arch)
    narrow = facts.user_land_bits == 32 or machine_of(facts) in _32_BIT
    kernel = "aarch64" if machine == "armv8l" else machine
    if wanted in _64_BIT and kernel == wanted and (narrow or facts.python_bits == 32):
        what = "user land" if narrow else f"Python ({facts.python})"
        raise BoardError(
            f"{board}: the kernel is 64-bit ({facts.machine}) but the {what} is 32-bit, for which the runtimes of "
            f"{profile.name} have no wheels; install the 64-bit system."
        )
    if kernel != wanted and not (wanted == "armv7l" and kernel == "aarch64" and narrow):
        raise BoardError(
            f"{board}: the board is a {facts.machine} machine but its profile {profile.name} is for {profile.arch}; "
            "correct `profile` in fleet.toml, or install the system for that machine."
        )


def _check_python(facts: BoardFacts, board: str, python: str) -> None:
    if facts.python_version is None and facts.bundle is not None:
        raise BoardError(
            f"{board}: the provisioned runtime {facts.bundle[:12]} does not start; run `edgedeploy provision` again."
        )
    if facts.python_version is None:
        fault = "does not run" if facts.python_found else "is not there"
        raise NoPython(
            f"{board}: no Python: `{python}` {fault}; run `edgedeploy provision`, install python3 on the board, or set "
            "`python =` in fleet.toml."
        )
    if python_minor(facts) < OLDEST_PYTHON:
        raise NoPython(
            f"{board}: Python {facts.python_version} ({facts.python or python}) is too old, "
            f"{'.'.join(map(str, OLDEST_PYTHON))} is the least; run `edgedeploy provision`, or set `python =` in "
            "fleet.toml to a newer one."
        )


def check_root(facts: BoardFacts, board: str, place: str = "") -> None:
    """Raise BoardError where nothing can be written under the root; `place` says where the root may be instead."""
    if facts.root_writable:
        return
    trouble = facts.root_trouble
    if trouble in _FULL:
        # bytes are free, so that it is files of which there can be no more
        inodes = trouble == _FULL[0] and (facts.free_bytes or 0) >= _SOME_BYTES
        trouble += ", for its inodes are used up" if inodes else ""
        mend, other = "remove files there", "to a folder on another file system"
    elif trouble == _READ_ONLY:
        mend, other = (
            "mount it writable (a kernel makes it read-only when the disk fails)",
            "to a folder that is writable",
        )
    else:
        mend, other = "make it writable for the user who logs in", "to a folder that is"
    raise BoardError(
        f"{board}: cannot write to {facts.root}{trouble and f': {trouble}'}; {mend}, or set `root =` in fleet.toml "
        f"{place or other}."
    )


def _system(said: dict[str, str], cpus: str) -> System:
    elf = [int(part) for part in said.get("elf", "").split() if part.isdecimal()]
    memory = re.fullmatch(r"(\d{1,15}) kB", said.get("memory", ""))
    other = re.fullmatch(r"(3\.\d{1,2}) (/[^\0]{1,4000})", said.get("other_python", ""))
    return System(
        libc=_libc(said),
        # from byte 4 on: that is the class, bytes 18 and 19 are the machine, little-endian
        user_land=_ELF_MACHINES.get((elf[0], elf[14] + 256 * elf[15]), "") if len(elf) == 16 else "",
        memory_bytes=int(memory[1]) * 1024 if memory else None,
        isa=tuple(parse_isa(cpus)),
        model=printable(said.get("model", "")),
        executable=said.get("executable") == "yes",
        executable_place=printable(said.get("executable_place", "")),
        has_tar=said.get("tar") == "yes",
        has_ssh_keygen=said.get("ssh_keygen") == "yes",
        other_python=(other[1], other[2]) if other else None,
    )


def _bundle_packages(manifest: str) -> tuple[str, ...]:
    try:
        packages = json.loads(manifest)["packages"]
        return tuple(sorted(str(name) for name in packages))[:100]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()


def _libc(said: dict[str, str]) -> str:
    if "bionic" in said:
        return "bionic"
    # the Python of a bundle tells of the C library that came with it
    for found in (said.get("libc"), None if "loader" in said else said.get("python_libc")):
        match = re.fullmatch(r"glibc (\d{1,2}\.\d{1,3})(\.\d+)?", found or "")
        if match:
            return f"glibc {match[1]}"
    return "musl" if "musl" in said else ""


def _kib(line: str) -> int:
    """The bytes in a line of `du -k`, 0 where it is none."""
    found = re.match(r"(\d{1,12})\s", line)
    return int(found[1]) * 1024 if found else 0


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
