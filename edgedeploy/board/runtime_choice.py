"""Chooses what a board is to be brought: wheels for its own Python, or a Python and a C library with them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from edgedeploy.board.elf import Needs, Version, version_of, version_text
from edgedeploy.board.probe_scripts import PYTHONS
from edgedeploy.board.wheels import Index, Target, Wheel, series_of

# The runtimes that are published as wheels, each with the module that is imported.
MODULES = {"onnxruntime": "onnxruntime", "ai-edge-litert": "ai_edge_litert", "tflite-runtime": "tflite_runtime"}
# What runs the same files where the one asked for cannot be had.
INSTEAD = {"ai-edge-litert": "tflite-runtime"}
# Checks signatures of releases where there is no ssh-keygen, with what it loads: a fifth of what cryptography takes.
VERIFIER, VERIFIER_MODULE, VERIFIER_NEEDS = "pynacl", "nacl", "cffi"
MACHINES = ("aarch64", "x86_64", "armv7l")
MAX_STEPS = 8
# tflite-runtime was built before numpy 2 and does not load beside it.
OLD_NUMPY: Version = (2,)
SYSTEM_LIBRARIES = ("libstdc++.so.6", "libgomp.so.1", "libgcc_s.so.1")


class Way(StrEnum):
    """How a runtime comes to a board."""

    WHEELS = "wheels"
    OWN_PYTHON = "own python"


@dataclass(frozen=True, slots=True)
class Description:
    """A board as far as the choice depends on it.

    `machine` is that of its user land, `glibc` () where its C library is another one, which `libc` names. `python` is
    its version, () where none is there; `glibcxx` what its C++ library offers. `libraries` are those of
    SYSTEM_LIBRARIES that are there, `present` the modules that already import, with their versions. `verifies` says
    whether it can check signatures with what is its own.
    """

    machine: str
    libc: str
    glibc: Version
    python: Version = ()
    python_bits: int | None = None
    glibcxx: Version = ()
    libraries: frozenset[str] = frozenset()
    present: dict[str, str] = field(default_factory=dict)
    verifies: bool = True


@dataclass(frozen=True, slots=True)
class OwnPython:
    """A Python that can be brought along with its C and C++ libraries. `numpy` is its version where it has one too."""

    python: Version
    glibc: Version
    glibcxx: Version
    library_needs: dict[str, Needs] = field(default_factory=dict)
    numpy: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """What to bring, and what cannot be had: runtime and the reason, one sentence each.

    `libraries` of SYSTEM_LIBRARIES come beside wheels; a Python of its own has them in any case. `notes` say what was
    taken instead of what was asked for.
    """

    way: Way
    wheels: tuple[Wheel, ...] = ()
    libraries: tuple[str, ...] = ()
    system_numpy: str = ""
    cannot: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The runtimes among the wheels."""
        return tuple(wheel.package for wheel in self.wheels if wheel.package in MODULES)

    @property
    def verifier(self) -> bool:
        """Whether the wheels bring what checks signatures."""
        return any(wheel.package == VERIFIER for wheel in self.wheels)


def choose(board: Description, wanted: Sequence[str], index: Index, own: OwnPython | str) -> Choice:
    """Choose the way that brings most of the runtimes in `wanted`, the board's own Python where both bring as much.

    `own` is the Python that can be brought, or why none can. Raises DownloadError.
    """
    lacking = [name for name in wanted if MODULES[name] not in board.present]
    if not lacking:
        return Choice(Way.WHEELS)
    if board.machine not in MACHINES:
        return _nothing(lacking, f"no runtime is published for {board.machine or 'its machine'}")
    reason = no_wheels(board)
    here = _nothing(lacking, reason) if reason else _wheels(board, lacking, index, own)
    if not here.cannot and not here.notes:
        return here
    if isinstance(own, str):
        # Where no wheel can be used at all, why no Python is brought is half of the answer.
        return replace(here, cannot=tuple((name, f"{why}; {own}") for name, why in here.cannot)) if reason else here
    brought = _own(board, list(wanted), index, own)
    # What the board has of its own, such as a build for its GPU, is worth more than what is brought.
    there = len(wanted) - len(lacking)
    return brought if len(brought.runtimes) > len(here.runtimes) + there else here


def with_verifier(choice: Choice, board: Description, index: Index, own: OwnPython | None) -> Choice:
    """The choice with what checks signatures of releases, or why that cannot be had.

    `own` is the Python that can be brought, where one was looked for. Raises DownloadError.
    """
    if choice.way is Way.WHEELS and not board.python:
        return choice  # there is nothing that could take a release
    found = _verifier(choice, board, index, own)
    if isinstance(found, str):
        why = f"{found}; without it and without ssh-keygen (openssh-client 8.2 or later) the board takes no release"
        return replace(choice, cannot=(*choice.cannot, (VERIFIER, why)))
    return replace(choice, wheels=(*choice.wheels, *found))


def no_wheels(board: Description) -> str:
    """Why no wheel can be used with the board's own Python, or ""."""
    if not board.python:
        return "the board has no Python"
    if not PYTHONS[0] <= board.python[:2] <= PYTHONS[1]:
        versions = " to ".join(version_text(version) for version in PYTHONS)
        return f"the board's Python {version_text(board.python)} has no wheels, those are for {versions}"
    if board.python_bits is not None and board.python_bits != (32 if board.machine == "armv7l" else 64):
        return f"the board's Python is a {board.python_bits}-bit one on a {board.machine} user land"
    if not board.glibc:
        return f"the board's C library is {board.libc or 'not known'}, and the wheels are for glibc"
    return ""


def unfit(needs: Needs, glibc: Version, glibcxx: Version | None) -> str:
    """Why libraries with these needs cannot be loaded, or ""; a `glibcxx` of None stands for one that is brought."""
    if needs.glibc > glibc:
        return f"needs glibc {version_text(needs.glibc)}, the board has {version_text(glibc)}"
    if glibcxx is not None and needs.glibcxx > glibcxx:
        return f"needs GLIBCXX_{version_text(needs.glibcxx)}, the board's libstdc++ has " + (
            version_text(glibcxx) or "none"
        )
    return ""


def _verifier(choice: Choice, board: Description, index: Index, own: OwnPython | None) -> tuple[Wheel, ...] | str:
    if board.machine not in MACHINES:
        return f"no wheel of it is published for {board.machine or 'its machine'}"
    if choice.way is Way.OWN_PYTHON and own is not None:
        fitting = _fitting_own(board, index, own)
    elif reason := no_wheels(board):
        return reason
    else:
        target = Target(board.machine, board.python[:2], board.glibc)
        fitting = _Fitting(index, target, board.glibc, board.glibcxx, board, frozenset())
    wheels = []
    for name in (VERIFIER, VERIFIER_NEEDS):
        found = fitting.newest(name)
        if isinstance(found, str):
            return found
        wheels.append(found)
    return tuple(wheels)


def _nothing(names: Collection[str], why: str) -> Choice:
    return Choice(Way.WHEELS, cannot=tuple((name, why) for name in names))


def _wheels(board: Description, lacking: Collection[str], index: Index, own: OwnPython | str) -> Choice:
    lent = _lent(board, own)
    target = Target(board.machine, board.python[:2], board.glibc)
    fitting = _Fitting(index, target, board.glibc, None if "libstdc++.so.6" in lent else board.glibcxx, board, lent)
    wheels, cannot, notes = fitting.runtimes(lacking)
    numpy = board.present.get("numpy", "")
    if wheels and (not numpy or (_old_numpy(wheels) and version_of(numpy) >= OLD_NUMPY)):
        found = fitting.numpy(old=_old_numpy(wheels))
        if isinstance(found, str):
            return Choice(Way.WHEELS, cannot=(*((wheel.package, found) for wheel in wheels), *cannot))
        wheels.append(found)
    needed = {name for wheel in wheels for name in wheel.needs.libraries & set(SYSTEM_LIBRARIES)}
    old = any(wheel.needs.glibcxx > board.glibcxx for wheel in wheels)
    libraries = {name for name in needed if name not in board.libraries or (old and name != "libgomp.so.1")}
    return Choice(Way.WHEELS, tuple(wheels), tuple(sorted(libraries)), cannot=tuple(cannot), notes=tuple(notes))


def _own(board: Description, wanted: Collection[str], index: Index, own: OwnPython) -> Choice:
    fitting = _fitting_own(board, index, own)
    wheels, cannot, notes = fitting.runtimes(wanted)
    numpy = fitting.numpy(old=_old_numpy(wheels)) if wheels else ""
    if isinstance(numpy, Wheel):
        wheels.append(numpy)
    elif wheels and not own.numpy:
        return Choice(Way.OWN_PYTHON, cannot=(*((wheel.package, numpy) for wheel in wheels), *cannot))
    system_numpy = own.numpy if wheels and not isinstance(numpy, Wheel) else ""
    return Choice(Way.OWN_PYTHON, tuple(wheels), system_numpy=system_numpy, cannot=tuple(cannot), notes=tuple(notes))


def _fitting_own(board: Description, index: Index, own: OwnPython) -> _Fitting:
    target = Target(board.machine, own.python[:2], own.glibc)
    return _Fitting(index, target, own.glibc, own.glibcxx, None, frozenset())


def _old_numpy(wheels: Sequence[Wheel]) -> bool:
    return any(wheel.name == "tflite_runtime" for wheel in wheels)


def _lent(board: Description, own: OwnPython | str) -> frozenset[str]:
    """The libraries of the Python that can be brought which the board's own C library can load."""
    if isinstance(own, str):
        return frozenset()
    return frozenset(name for name, needs in own.library_needs.items() if needs.glibc <= board.glibc)


@dataclass(frozen=True, slots=True)
class _Fitting:
    """Finds wheels that load with these libraries; `board` is None where all libraries are brought."""

    index: Index
    target: Target
    glibc: Version
    glibcxx: Version | None
    board: Description | None
    lent: frozenset[str]

    def runtimes(self, names: Collection[str]) -> tuple[list[Wheel], list[tuple[str, str]], list[str]]:
        """The wheels, what cannot be had, and what was taken instead."""
        wheels: list[Wheel] = []
        cannot: list[tuple[str, str]] = []
        notes: list[str] = []
        for name in names:
            found = self.newest(name)
            if isinstance(found, str) and name in INSTEAD and INSTEAD[name] not in names:
                other = self.newest(INSTEAD[name])
                if isinstance(other, Wheel):
                    notes.append(f"{other.package} {other.version} instead of {name}: {found}")
                    found = other
            if isinstance(found, str):
                cannot.append((name, found))
            else:
                wheels.append(found)
        return wheels, cannot, notes

    def numpy(self, *, old: bool) -> Wheel | str:
        """The newest numpy, or why there is none."""
        return self.newest("numpy", OLD_NUMPY if old else ())

    def newest(self, name: str, below: Version = ()) -> Wheel | str:
        """The newest release that loads, stepping down a series at a time, or why there is none."""
        first = ""
        for _ in range(MAX_STEPS):
            wheel = self.index.newest(name, below, self.target)
            if wheel is None:
                break
            if lacking := self._lacks(wheel.needs):
                return f"{name} {wheel.version} {lacking}"  # and so would an older one
            reason = unfit(wheel.needs, self.glibc, self.glibcxx)
            if not reason:
                return wheel
            first = first or f"{name} {wheel.version} {reason}"
            below = series_of(wheel.version)
        tag = f"Python {version_text(self.target.python)} on {self.target.machine}"
        return f"{first}, nor does an older one fit" if first else f"no wheel of {name} is published for {tag}"

    def _lacks(self, needs: Needs) -> str:
        if self.board is None:
            return ""
        missing = (needs.libraries & set(SYSTEM_LIBRARIES)) - self.board.libraries - self.lent
        return f"needs {min(missing)}, which the board lacks" if missing else ""
