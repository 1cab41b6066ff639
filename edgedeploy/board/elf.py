"""What a compiled library really needs of a board, since the tags of wheels say too little or too much."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass

Version = tuple[int, ...]

_VERSIONED = re.compile(r"(GLIBC|GLIBCXX)_(\d+(?:\.\d+)+)")
# By EI_CLASS and e_machine of the header: System V ABI, and Linux, include/uapi/linux/elf-em.h.
MACHINES = {(2, 183): "aarch64", (1, 40): "armv7l", (2, 62): "x86_64", (2, 243): "riscv64"}
HEAD_BYTES = 20


@dataclass(frozen=True, slots=True)
class Needs:
    """The least versions of the C and C++ libraries, () for any, and the names of the libraries that are loaded."""

    glibc: Version = ()
    glibcxx: Version = ()
    libraries: frozenset[str] = frozenset()


def header_machine(head: bytes) -> tuple[int, int]:
    """EI_CLASS and e_machine of a file that begins so. Raises ValueError where it is no ELF file."""
    if len(head) < HEAD_BYTES or head[:4] != b"\x7fELF":
        raise ValueError("it is no ELF file")
    return head[4], int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")


def needs_of(content: bytes, machine: str) -> Needs:
    """Read a library's version needs (section .gnu.version_r) and what it loads (DT_NEEDED).

    Raises ValueError where it is no ELF file for `machine`, or one that cannot be read.
    """
    from elftools.common.exceptions import ELFError
    from elftools.construct import ConstructError
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile
    from elftools.elf.gnuversions import GNUVerNeedSection

    newest: dict[str, Version] = {}
    libraries: set[str] = set()
    try:
        file = ELFFile(io.BytesIO(content))
        found = MACHINES.get(header_machine(content), str(file["e_machine"]))
        for section in file.iter_sections():
            if isinstance(section, GNUVerNeedSection):
                for _, versions in section.iter_versions():
                    for version in versions:
                        if match := _VERSIONED.fullmatch(version.name):
                            newest[match[1]] = max(newest.get(match[1], ()), version_of(match[2]))
            elif isinstance(section, DynamicSection):
                libraries |= {str(vars(tag)["needed"]) for tag in section.iter_tags("DT_NEEDED")}
    # The reader meets nonsense of a spoilt file in many places, each with an error of its own kind.
    except (ELFError, ConstructError, AssertionError, KeyError, IndexError, ValueError, AttributeError) as error:
        raise ValueError(f"it is no ELF file that can be read: {error}") from error
    if found != machine:
        raise ValueError(f"it is for {found}, not for {machine}")
    return Needs(newest.get("GLIBC", ()), newest.get("GLIBCXX", ()), frozenset(libraries))


def joined(needs: Iterable[Needs]) -> Needs:
    """What all of them need together."""
    all_of = list(needs)
    return Needs(
        max((each.glibc for each in all_of), default=()),
        max((each.glibcxx for each in all_of), default=()),
        frozenset[str]().union(*(each.libraries for each in all_of)),
    )


def offered_glibcxx(content: bytes) -> Version:
    """The newest GLIBCXX version that a libstdc++ names, () where it names none."""
    found = re.findall(rb"GLIBCXX_(\d+(?:\.\d+){1,3})\0", content)
    return max((version_of(version.decode()) for version in found), default=())


def version_of(text: str) -> Version:
    """The numbers of a version, so that 2.9 is before 2.28."""
    return tuple(int(part) for part in re.findall(r"\d{1,9}", text))


def version_text(version: Version) -> str:
    """The version as people write it."""
    return ".".join(map(str, version))
