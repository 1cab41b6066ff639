"""Brings one board the runtimes that it lacks, with no internet, no pip and no root there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgedeploy.board.booting import UNPACK_TIMEOUT_S, Boot
from edgedeploy.board.debian import DebianPackages, DebianPython
from edgedeploy.board.facts import OLDEST_PYTHON, BoardFacts, check_machine, check_root, machine_of, python_minor
from edgedeploy.board.host_tools import alone, cache_folder
from edgedeploy.board.inspecting import Found, describe, found_on
from edgedeploy.board.push import left_alone_bytes, push
from edgedeploy.board.runtime_archive import RuntimeBundle, pack
from edgedeploy.board.runtime_choice import (
    MODULES,
    VERIFIER,
    VERIFIER_MODULE,
    Choice,
    Description,
    Way,
    choose,
    with_verifier,
)
from edgedeploy.board.session import Board, probe
from edgedeploy.board.untrusted import printable
from edgedeploy.board.wheels import Index, PipIndex
from edgedeploy.errors import BoardError
from edgedeploy.progress import SILENT
from edgedeploy.records import Device, DeviceProfile
from edgedeploy.transport import Transport, open_transport

FACTS_TIMEOUT_S = 600.0
# What a file may take beyond its bytes: the rest of its last block.
BLOCK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What a board has and what came to it; after a dry run, what would.

    `bundle` is the digest of what is in use afterwards, None where there is none. `brought` holds packages and their
    versions, `cannot` each runtime that the board goes without, and why.
    """

    device: str
    found: Found
    way: str
    bundle: str | None
    brought: dict[str, str]
    bytes_sent: int
    unpacked_bytes: int
    cannot: dict[str, str]
    notes: tuple[str, ...]
    dry_run: bool


def provision(
    device: Device,
    profile: DeviceProfile,
    base: Path,
    *,
    runtimes: Sequence[str] = (),
    dry_run: bool = False,
    step: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    index: Index | None = None,
    cache: Path | None = None,
) -> Provisioned:
    """Bring a board the runtimes of its profile, or those named, that it lacks.

    `step` is told what begins, `progress` the bytes sent so far and in all. Raises PlanError, TransportError,
    BoardError, AgentError, LeaseError or DownloadError; then the board runs what it ran before.
    """
    tell = step or SILENT.step
    folder = cache or cache_folder()
    with open_transport(device, base) as transport:
        facts = probe(transport, device)
        check_machine(facts, device, profile)
        check_root(facts, device.name)
        wanted = _wanted(profile, runtimes, facts)
        board = _board(transport, facts, device)
        told = None if board is None else _told(board)
        found = found_on(facts, told)
        description = describe(facts, told)
        if not dry_run and any(MODULES[name] not in description.present for name in wanted):
            _check_executable(facts, device)
        tell(f"choose what {device.name} needs")
        # Phones take no releases; and where nothing can be executed no library loads either.
        verifier = not description.verifies and device.scheme != "adb" and facts.system.executable
        with alone(folder):
            choice, bundle = _made(description, wanted, index or PipIndex(folder), folder, verifier=verifier)
        there = bundle is not None and _in_use(bundle, choice, facts, found)
        outcome = _outcome(device, found, choice, facts, None if there else bundle, dry_run=dry_run)
        if bundle is None or there or dry_run:
            return outcome
        tell(f"provision {device.name}")
        operation = _operation(bundle, choice, board.python if board and choice.way is Way.WHEELS else "", device)
        room = _room(facts, bundle)
        if board is None:
            boot = Boot(transport, facts, machine_of(facts), bundle)
            _check_space(boot.free_bytes, device, facts, boot.needed_bytes + room)
            results = boot.run(operation, progress)
        else:
            _check_space(told["free_bytes"] if told else None, device, facts, bundle.size_bytes + room)
            push(board, {bundle.sha256: bundle.path}, progress=progress, reserve_bytes=room)
            results = [board.result(board.run_job([operation], timeout_s=UNPACK_TIMEOUT_S), 0)]
        return _after(outcome, facts, results)


def _wanted(profile: DeviceProfile, named: Sequence[str], facts: BoardFacts) -> list[str]:
    """The runtimes that the board is to have afterwards: to name one takes none of those away that were brought."""
    asked = [*named, *facts.bundle_packages] if named else [runtime.name for runtime in profile.runtimes]
    return [name for name in dict.fromkeys(asked) if name in MODULES]


def _board(transport: Transport, facts: BoardFacts, device: Device) -> Board | None:
    """The board with the Python that can run the agent, the one that has wheels first; None where there is none."""
    other = facts.system.other_python
    if other is not None and device.python is None:
        version, path = other
        usable = replace(facts, python=path, python_version=version, python_bits=None, bundle=None, loader=None)
        return Board(transport, usable, path)
    if facts.python is None or python_minor(facts) < OLDEST_PYTHON:
        return None
    return Board(transport, facts, facts.python, facts.interpreter)


def _told(board: Board) -> dict[str, Any]:
    """The agent's facts, after what killed agents left is cleared away."""
    report = board.run_job([{"op": "tidy_runtimes"}, {"op": "facts"}], timeout_s=FACTS_TIMEOUT_S)
    facts: dict[str, Any] = board.result(report, 1)["facts"]
    return facts


def _made(
    board: Description, wanted: Sequence[str], index: Index, cache: Path, *, verifier: bool
) -> tuple[Choice, RuntimeBundle | None]:
    """Choose, and pack what was chosen; None where there is nothing to bring."""
    debian = DebianPackages(cache, board.machine)
    why = debian.why_not()
    choice = choose(board, wanted, index, why)
    own: DebianPython | None = None
    if not why and (choice.cannot or choice.notes):
        own = debian.python()
        choice = choose(board, wanted, index, own.offers)
    if verifier:
        choice = with_verifier(choice, board, index, own.offers if own is not None else None)
    if not choice.wheels:
        return choice, None
    extra: dict[str, Path] = {}
    if own is not None and choice.way is Way.OWN_PYTHON:
        extra = {**own.files, **(own.numpy if choice.system_numpy else {})}
    elif own is not None:
        extra = {f"lib/{name}": own.libraries[name] for name in choice.libraries}
    about = {"way": choice.way, "packages": _packages(choice), "machine": board.machine}
    return choice, pack(cache, choice.wheels, extra, own.packages if own and extra else (), about)


def _packages(choice: Choice) -> dict[str, str]:
    packages = {wheel.package: wheel.version for wheel in choice.wheels}
    return packages | ({"numpy": choice.system_numpy} if choice.system_numpy else {})


def _outcome(
    device: Device, found: Found, choice: Choice, facts: BoardFacts, bundle: RuntimeBundle | None, *, dry_run: bool
) -> Provisioned:
    return Provisioned(
        device=device.name,
        found=found,
        way=str(choice.way) if bundle else "",
        bundle=facts.bundle if bundle is None else bundle.sha256,
        brought={} if bundle is None else _packages(choice),
        bytes_sent=0 if bundle is None else bundle.size_bytes,
        unpacked_bytes=0 if bundle is None else bundle.unpacked_bytes,
        cannot=dict(choice.cannot),
        notes=choice.notes,
        dry_run=dry_run,
    )


def _in_use(bundle: RuntimeBundle, choice: Choice, facts: BoardFacts, found: Found) -> bool:
    verifies = found.verifier == VERIFIER_MODULE or not choice.verifier
    here = facts.bundle == bundle.sha256 and all(MODULES[name] in found.runtimes for name in choice.runtimes)
    return here and verifies


def _check_executable(facts: BoardFacts, device: Device) -> None:
    if not facts.system.executable:
        place = facts.system.executable_place
        mend = f'set `root = "{place.rstrip("/")}/.edgedeploy"`' if place else "set `root =`"
        raise BoardError(
            f"{device.name}: nothing can be executed under {facts.root}, which a runtime needs (the file system is "
            f"mounted noexec, or a security module forbids it): {mend} in fleet.toml"
            + (", where it can." if place else " to a folder where it can.")
        )


def _check_space(free_bytes: int | None, device: Device, facts: BoardFacts, needed: int) -> None:
    if free_bytes is not None and free_bytes < needed:
        raise BoardError(
            f"{device.name}: not enough space: the runtime takes {needed >> 20} MiB while it is unpacked, and "
            f"{free_bytes >> 20} MiB are free in {facts.root}: clear it, or set `root =` in fleet.toml."
        )


def _room(facts: BoardFacts, bundle: RuntimeBundle) -> int:
    """What must be free beside the packed file: the unpacked ones, and what a push leaves alone."""
    return bundle.unpacked_bytes + bundle.files * BLOCK_BYTES + left_alone_bytes(facts.total_bytes or 0)


def _operation(bundle: RuntimeBundle, choice: Choice, python: str, device: Device) -> dict[str, Any]:
    runtimes = [MODULES[name] for name in choice.runtimes]
    verifier = [VERIFIER_MODULE] if choice.verifier else []
    return {
        "op": "unpack_runtime",
        "sha256": bundle.sha256,
        "size_bytes": bundle.size_bytes,
        "unpacked_bytes": bundle.unpacked_bytes,
        "files": bundle.files,
        # Named as fleet.toml names it, so that another name there is seen to be another Python.
        "python": device.python or python,
        "imports": runtimes or verifier,
        "also": verifier if runtimes else [],
    }


def _after(outcome: Provisioned, facts: BoardFacts, results: Sequence[Mapping[str, Any]]) -> Provisioned:
    unpacked = results[0]
    names = {module: name for name, module in MODULES.items()} | {VERIFIER_MODULE: VERIFIER}
    failed = {
        names.get(module, printable(module)): f"it was brought and cannot be imported: {printable(why)}"
        for module, why in unpacked["failed"].items()
    }
    # a board that had no Python could not be asked before
    found = found_on(facts, results[1]["facts"]) if len(results) > 1 else outcome.found
    imported = {printable(name): printable(version) for name, version in unpacked["runtimes"].items()}
    if imported.pop(VERIFIER_MODULE, None) is not None:
        found = replace(found, verifier=VERIFIER_MODULE)
    runs = {**found.runtimes, **imported}
    if "numpy" in outcome.brought:
        runs["numpy"] = outcome.brought["numpy"]  # which each of the runtimes has just imported
    return replace(outcome, found=replace(found, runtimes=runs), cannot={**outcome.cannot, **failed})
