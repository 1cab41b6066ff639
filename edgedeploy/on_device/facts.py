"""What this board is: architecture, memory, instruction set, runtimes, sensors."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any

from .fields import find, read_text

if TYPE_CHECKING:
    from collections.abc import Callable

# Kernel names of the features that decide how fast a quantised or half-precision net runs.
_ISA = frozenset(
    (
        *("neon", "vfpv4", "crc32", "asimd", "asimddp", "fphp", "asimdhp", "i8mm", "bf16", "sve", "sve2", "sme"),
        *("sse2", "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"),
        *("avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    )
)


def board_summary(root: str = "/") -> dict[str, Any]:
    """Return what every report says about its board."""
    system = os.uname()
    cpuinfo = read_text(root, "proc/cpuinfo") or ""
    return {
        "machine": system.machine,
        "kernel": system.release,
        "python": sys.version.split()[0],
        "cpus": len(os.sched_getaffinity(0)),
        "isa": parse_isa(cpuinfo),
        "emulated": parse_emulated(system.machine, cpuinfo, _parent_program()),
    }


def board_facts(store: str, packages: Callable[[], dict[str, str]], root: str = "/") -> dict[str, Any]:
    """Return all that the host wants to know before it trusts a device profile.

    `store` is the folder that edgedeploy owns here; `packages` finds the versions of the runtimes, and of numpy,
    that import.
    """
    # Only here: every job asks for the summary.
    import struct

    from .access import closed_sensors, shared_libraries
    from .conditions import parse_meminfo
    from .objects import space
    from .power import available_sources

    cpuinfo = read_text(root, "proc/cpuinfo") or ""
    summary = board_summary(root)
    del summary["emulated"]
    runtimes = packages()
    numpy = runtimes.pop("numpy", None)
    return dict(
        summary,
        word_bits=struct.calcsize("P") * 8,
        libc=_libc(),
        memory_bytes=parse_meminfo(read_text(root, "proc/meminfo") or "", "MemTotal") or 0,
        model_name=_model_name(root, cpuinfo),
        runtimes=runtimes,
        numpy=numpy,
        power_sources=available_sources(root),
        closed=closed_sensors(root),
        libraries=shared_libraries(root),
        **space(store),
    )


def parse_isa(cpuinfo: str) -> list[str]:
    """Return the telling instruction-set features that every core of /proc/cpuinfo has, sorted."""
    cores = [set(line.split()) for line in re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)]
    return sorted(_ISA.intersection(*cores)) if cores else []


def parse_emulated(machine: str, cpuinfo: str, parent_program: str = "") -> bool:
    """Return whether instructions are translated rather than run; a plain virtual machine runs them.

    qemu-user announces an Arm machine while the kernel's cpuinfo is still the host's. A processor called QEMU
    without a hypervisor flag is software too. Where cpuinfo is faked, the parent's program gives it away.
    """
    if re.match(
        r"qemu-(arm|armeb|aarch64|aarch64_be|i386|x86_64|riscv\d+)(-static)?$", os.path.basename(parent_program)
    ):
        return True
    if machine.startswith(("arm", "aarch64")) and re.search(r"^vendor_id\s*:", cpuinfo, re.MULTILINE):
        return True
    named_qemu = re.search(r"^model name\s*:.*QEMU", cpuinfo, re.MULTILINE)
    return bool(named_qemu and not re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.MULTILINE))


def _parent_program() -> str:
    # qemu-user fakes /proc/self, not the entries of other processes.
    try:
        return os.readlink(f"/proc/{os.getppid()}/exe")
    except OSError:
        return ""


def _libc() -> str:
    try:
        glibc = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        glibc = None
    return glibc or ("musl" if find("/", "lib/ld-musl-*") else "")


def _model_name(root: str, cpuinfo: str) -> str:
    for path in ("sys/firmware/devicetree/base/model", "proc/device-tree/model"):
        name = read_text(root, path)
        if name:
            return name
    match = re.search(r"^(?:Model|model name|Hardware)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    if match:
        return match.group(1).strip()
    return (read_text(root, "sys/class/dmi/id/product_name") or "") if find(root, "sys/class/dmi/id") else ""
