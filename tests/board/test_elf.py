"""What a library needs is read from the library itself."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from edgedeploy.board.elf import Needs, joined, needs_of, offered_glibcxx, version_of, version_text

MACHINE = platform.machine()


def test_needs_of_a_small_library(library: bytes) -> None:
    needs = needs_of(library, MACHINE)
    oldest = (2, 2, 5) if MACHINE == "x86_64" else (2, 17)
    assert needs == Needs(oldest, (), frozenset({"libc.so.6"}))


@pytest.mark.parametrize("asked", ["GLIBC_9.99", "GLIBC_9.100"])
def test_the_newest_need_counts_by_number(library: bytes, asked: str) -> None:
    oldest = b"GLIBC_2.2.5" if MACHINE == "x86_64" else b"GLIBC_2.17"
    raised = library.replace(oldest + b"\0", asked.encode().ljust(len(oldest), b"\0") + b"\0")
    assert needs_of(raised, MACHINE).glibc == version_of(asked)


def test_another_machine_is_refused(library: bytes) -> None:
    other = "aarch64" if MACHINE == "x86_64" else "x86_64"
    with pytest.raises(ValueError, match=f"it is for {MACHINE}, not for {other}"):
        needs_of(library, other)


@pytest.mark.fault
@pytest.mark.parametrize("cut", [0, 3, 40, 64, 2000, -1])
def test_a_spoilt_library_is_told(library: bytes, cut: int) -> None:
    """A library that is cut anywhere, or is none, ends in one kind of error and not in a wrong answer."""
    spoilt = library[: len(library) // 2] if cut < 0 else library[:cut]
    with pytest.raises(ValueError, match="it is no ELF file that can be read"):
        needs_of(spoilt, MACHINE)


def test_what_several_need_together() -> None:
    one, two = Needs((2, 9), (3, 4, 30), frozenset("a")), Needs((2, 28), (), frozenset("b"))
    assert joined([one, two]) == Needs((2, 28), (3, 4, 30), frozenset("ab"))
    assert joined([]) == Needs()


def test_versions() -> None:
    assert version_text(version_of("glibc 2.31")) == "2.31"
    assert version_of("2.9") < version_of("2.28")
    assert offered_glibcxx(b"\0GLIBCXX_3.4.9\0GLIBCXX_3.4.30\0GLIBCXX_LDBL_3.4\0") == (3, 4, 30)
    assert offered_glibcxx(b"") == ()


def test_path_is_not_needed() -> None:
    with pytest.raises(ValueError, match="no ELF"):
        needs_of(Path(__file__).read_bytes(), MACHINE)
