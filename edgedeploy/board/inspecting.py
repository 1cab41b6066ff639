"""What a board is and has, from its probe and from its agent, in the words that the choice of runtimes needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgedeploy.board.elf import version_of
from edgedeploy.board.facts import BoardFacts, machine_of
from edgedeploy.board.runtime_choice import VERIFIER, VERIFIER_MODULE, Description
from edgedeploy.board.untrusted import printable


@dataclass(frozen=True, slots=True)
class Found:
    """What a board is and has. `python` is "" where none runs; `closed` names who may read the sensors that we may not.

    `runtimes` holds the versions of those that import, numpy among them. `verifier` is what checks signatures of
    releases there, "" where nothing does or none could be asked.
    """

    machine: str
    libc: str
    python: str
    python_bits: int | None
    model: str
    isa: tuple[str, ...]
    memory_bytes: int | None
    free_bytes: int | None
    root: str
    executable: bool
    runtimes: dict[str, str]
    sensors: tuple[str, ...]
    closed: dict[str, str]
    verifier: str


def found_on(facts: BoardFacts, told: Mapping[str, Any] | None) -> Found:
    """What is known of a board by its probe and, where its Python could be asked, by the agent."""
    told = told or {}
    system = facts.system
    return Found(
        machine=machine_of(facts),
        libc=system.libc,
        python=facts.python_version or "",
        python_bits=facts.python_bits,
        model=printable(told.get("model_name") or system.model),
        isa=tuple(told.get("isa") or system.isa),
        memory_bytes=told.get("memory_bytes") or system.memory_bytes,
        free_bytes=facts.free_bytes,
        root=facts.root,
        executable=system.executable,
        runtimes={printable(name): printable(version) for name, version in _packages(told).items()},
        sensors=tuple(printable(name) for name in told.get("power_sources", ())),
        closed={printable(name): printable(who) for name, who in told.get("closed", {}).items()},
        verifier="ssh-keygen" if system.has_ssh_keygen else printable(told.get("verifier", "")),
    )


def describe(facts: BoardFacts, told: Mapping[str, Any] | None) -> Description:
    """What the choice of runtimes depends on. `told` is what the agent says, None where no Python could run it."""
    libc = facts.system.libc
    libraries = (told or {}).get("libraries", {})
    brought = {name.replace("-", "_") for name in facts.bundle_packages}
    # A Python that was provisioned, and what imports there, is no part of the board: it is what may be replaced.
    usable = told is not None and facts.loader is None
    verifier = told.get("verifier", "") if told and usable else ""
    its_own = verifier != VERIFIER_MODULE or VERIFIER not in brought
    return Description(
        machine=machine_of(facts),
        libc=libc,
        glibc=version_of(libc) if libc.startswith("glibc") else (),
        python=version_of(told["python"])[:2] if told and usable else (),
        python_bits=told["word_bits"] if told and usable else None,
        glibcxx=version_of(libraries.get("libstdc++.so.6", "").removeprefix("GLIBCXX_")),
        libraries=frozenset(libraries),
        verifies=facts.system.has_ssh_keygen or bool(verifier and its_own),
        present={name: version for name, version in _packages(told).items() if name not in brought} if usable else {},
    )


def _packages(told: Mapping[str, Any] | None) -> dict[str, str]:
    """The runtimes that import on the board, and numpy."""
    if not told:
        return {}
    numpy = told.get("numpy")
    return {**told["runtimes"], **({} if numpy is None else {"numpy": numpy})}
