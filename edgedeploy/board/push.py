"""Sends a board what it lacks of its files, under temporary names until the board itself has checked each digest."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedeploy.board.parcels import Parcel, parcels, verified_bytes
from edgedeploy.board.session import Board, adding_up, transfer_timeout_s
from edgedeploy.errors import BoardError, LeaseError, TransferError
from edgedeploy.records import Artifact, Variant

# The share of the disk that is left alone, so that logs and the system's own updates still fit.
RESERVED_SHARE = 0.03
MAX_RESERVED_BYTES = 256 << 20
# What hashing takes on the slowest board, from its SD card.
HASHED_BYTES_PER_S = 5e6
# Another push holds the board for as long as it takes to hash its files; a measurement holds it for much longer.
LOCK_PAUSES_S = (0.3, 0.7, 1.5, 3.0)


@dataclass(frozen=True, slots=True)
class PushResult:
    """Which objects went to the board and which were there, by SHA-256; after a dry run, which would go.

    `kept_bytes` of those that went an interrupted push had brought there before.
    """

    sent: tuple[str, ...]
    present: tuple[str, ...]
    bytes_sent: int
    seconds: float
    kept_bytes: int = 0


def lying(board: Board, variant: Variant) -> Artifact:
    """What of a variant's file lies on a board: packed where that is smaller and the board can rebuild it."""
    smaller = variant.packed.size_bytes < variant.artifact.size_bytes
    return variant.packed if smaller and board.facts.has_numpy else variant.artifact


def push(
    board: Board,
    artifacts: Mapping[str, Path],
    *,
    progress: Callable[[int, int], None] | None = None,
    dry_run: bool = False,
    reserve_bytes: int | None = None,
) -> PushResult:
    """Send the local files of `artifacts` (by SHA-256) that the board does not have whole.

    `progress` gets the bytes sent so far and in all. `reserve_bytes` must stay free afterwards; by default twice
    the payload, and at least the lesser of 3 % of the disk and 256 MiB. Raises BoardError for too little space,
    TransferError for a file that did not arrive whole, LeaseError, AgentError and TransportError; then no file has
    its final name that was not checked. What arrived before the link was lost, or the push was interrupted or had to
    wait too long, stays for the next push to go on from; after any other error it is removed.
    """
    started = time.monotonic()
    sizes = {sha256: path.stat().st_size for sha256, path in sorted(artifacts.items())}
    if not sizes:
        return PushResult((), (), 0, 0.0)
    hashing_s = 60.0 + sum(sizes.values()) / HASHED_BYTES_PER_S
    inventory = _inventory(board, sizes, hashing_s)
    present = tuple(sorted(set(inventory["present"]) & sizes.keys()))
    missing = {sha256: size for sha256, size in sizes.items() if sha256 not in present}
    kept = {
        sha256: have
        for sha256, marks in inventory["partial"].items()
        if sha256 in missing and (have := verified_bytes(artifacts[sha256], marks))
    }
    payload = sum(missing.values()) - sum(kept.values())
    if missing:
        check_space(board.name, board.root, payload, inventory["free_bytes"], inventory["total_bytes"], reserve_bytes)
    if missing and not dry_run:
        _send(board, artifacts, missing, kept, progress, hashing_s)
    return PushResult(tuple(missing), present, payload, time.monotonic() - started, sum(kept.values()))


def _inventory(board: Board, sizes: Mapping[str, int], timeout_s: float) -> Mapping[str, Any]:
    """What the board has of the objects of these sizes, and its free space."""
    facts = board.facts
    if board.untouched and facts.free_bytes is not None:
        board.untouched = False  # what is sent now lies there if the link breaks
        return {"present": [], "partial": {}, "free_bytes": facts.free_bytes, "total_bytes": facts.total_bytes}
    report = board.run_job([{"op": "inventory", "objects": sizes}], timeout_s=timeout_s)
    return board.result(report, 0)


def left_alone_bytes(total: int) -> int:
    """How much of a disk of `total` bytes is left alone."""
    return min(int(RESERVED_SHARE * total), MAX_RESERVED_BYTES)


def check_space(board: str, root: str, payload: int, free: int, total: int, reserve_bytes: int | None = None) -> None:
    """Raise BoardError where too little would stay free after `payload` bytes; all sizes are in bytes."""
    reserve = max(2 * payload, left_alone_bytes(total)) if reserve_bytes is None else reserve_bytes
    if free - payload < reserve:
        raise BoardError(
            f"{board}: not enough space: {_mib(payload)} are to be sent and {_mib(reserve)} must stay free, but "
            f"only {_mib(free)} of {_mib(total)} are free in {root}: clear it, or set `root =` in fleet.toml."
        )


def _send(
    board: Board,
    artifacts: Mapping[str, Path],
    missing: Mapping[str, int],
    kept: Mapping[str, int],
    progress: Callable[[int, int], None] | None,
    hashing_s: float,
) -> None:
    refused = _send_parcels(board, parcels(artifacts, missing, kept), progress, hashing_s)
    # What another push or a lost tail took away from under this one is sent whole, once.
    again = {sha256: missing[sha256] for sha256 in refused if sha256 in kept}
    if again:
        later = _send_parcels(board, parcels(artifacts, again, {}), None, hashing_s)
        refused = {sha256: why for sha256, why in refused.items() if sha256 not in again} | later
    if refused:
        lost = next(sha256 for sha256 in missing if sha256 in refused)
        raise TransferError(
            board.name,
            f"{len(refused)} of {len(missing)} files did not arrive whole, the first one "
            f"{artifacts[lost].name}: {refused[lost]}.",
        )


def _send_parcels(
    board: Board,
    sending: Sequence[Parcel],
    progress: Callable[[int, int], None] | None,
    hashing_s: float,
) -> dict[str, str]:
    """Send all and have them admitted; returns why not, by the SHA-256 of each object that was refused."""
    try:
        send_parcels(board, sending, progress)
        entries = [entry for parcel in sending for entry in parcel.entries]
        result = _admit(board, entries, hashing_s)
    except (BoardError, TransferError):
        # If the link is lost these cannot be removed and are of use; if it stands the disk may be full.
        board.remove([board.path(parcel.temporary) for parcel in sending if parcel.temporary is not None])
        raise
    reasons = {entry["sha256"]: entry["reason"] for entry in result["refused"]}
    unadmitted = {entry["sha256"] for entry in entries} - set(result["admitted"])
    return {sha256: reasons.get(sha256, "the board does not say why") for sha256 in sorted(unadmitted)}


def send_parcels(board: Board, sending: Sequence[Parcel], progress: Callable[[int, int], None] | None) -> None:
    """Bring parcels to the board under their temporary names. Raises TransportError."""
    advance = adding_up(progress, sum(parcel.size_bytes for parcel in sending))
    for parcel in sending:
        if parcel.temporary is not None:
            with parcel.file() as source:
                deadline_s = transfer_timeout_s(parcel.size_bytes)
                board.transport.put(source, board.path(parcel.temporary), timeout_s=deadline_s, progress=advance)


def _admit(board: Board, entries: Sequence[Mapping[str, Any]], timeout_s: float) -> dict[str, Any]:
    for pause_s in (*LOCK_PAUSES_S, None):
        report = board.run_job([{"op": "admit", "objects": list(entries)}], timeout_s=timeout_s)
        try:
            return board.result(report, 0)
        except LeaseError:
            if pause_s is None:
                raise
            time.sleep(pause_s)  # the board tells nobody when its lock is free: it must be asked again
    raise AssertionError("unreachable")


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.1f} MiB"
