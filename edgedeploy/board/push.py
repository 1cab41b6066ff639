"""Sends a board the files it lacks, each under a temporary name until the board itself has checked its digest."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedeploy.board.session import Board, transfer_timeout_s
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
    """Which objects went to the board and which were there, by SHA-256; after a dry run, which would go."""

    sent: tuple[str, ...]
    present: tuple[str, ...]
    bytes_sent: int
    seconds: float


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
    its final name that was not checked, and temporary ones are removed if the link still stands.
    """
    started = time.monotonic()
    sizes = {sha256: path.stat().st_size for sha256, path in sorted(artifacts.items())}
    if not sizes:
        return PushResult((), (), 0, 0.0)
    hashing_s = 60.0 + sum(sizes.values()) / HASHED_BYTES_PER_S
    report = board.run_job([{"op": "inventory", "objects": sizes}], timeout_s=hashing_s)
    inventory = board.result(report, 0)
    present = tuple(sorted(set(inventory["present"]) & sizes.keys()))
    missing = {sha256: size for sha256, size in sizes.items() if sha256 not in present}
    payload = sum(missing.values())
    if missing:
        _check_space(board, payload, inventory["free_bytes"], inventory["total_bytes"], reserve_bytes)
    if missing and not dry_run:
        _send(board, artifacts, missing, progress, hashing_s)
    return PushResult(tuple(missing), present, payload, time.monotonic() - started)


def _check_space(board: Board, payload: int, free: int, total: int, reserve_bytes: int | None) -> None:
    reserve = reserve_bytes
    if reserve is None:
        reserve = max(2 * payload, min(int(RESERVED_SHARE * total), MAX_RESERVED_BYTES))
    if free - payload < reserve:
        raise BoardError(
            f"{board.name}: not enough space: {_mib(payload)} are to be sent and {_mib(reserve)} must stay free, but "
            f"only {_mib(free)} of {_mib(total)} are free in {board.root}: clear it, or set `root =` in fleet.toml."
        )


def _send(
    board: Board,
    artifacts: Mapping[str, Path],
    missing: Mapping[str, int],
    progress: Callable[[int, int], None] | None,
    hashing_s: float,
) -> None:
    token, payload, sent = secrets.token_hex(8), sum(missing.values()), 0
    temporaries = {sha256: f"tmp/{token}-{sha256}" for sha256 in missing}

    def advance(size: int) -> None:
        nonlocal sent
        sent += size
        if progress is not None:
            progress(sent, payload)

    try:
        for sha256, temporary in temporaries.items():
            board.transport.put(
                artifacts[sha256],
                board.path(temporary),
                timeout_s=transfer_timeout_s(missing[sha256]),
                progress=advance,
            )
        entries = [
            {"temporary": temporaries[sha256], "sha256": sha256, "size_bytes": size} for sha256, size in missing.items()
        ]
        result = _admit(board, entries, hashing_s)
        admitted = set(result["admitted"])
        if not admitted >= missing.keys():
            reasons = {entry["sha256"]: entry["reason"] for entry in result["refused"]}
            lost = next(sha256 for sha256 in missing if sha256 not in admitted)
            raise TransferError(
                board.name,
                f"{len(missing.keys() - admitted)} of {len(missing)} files did not arrive whole, the first one "
                f"{artifacts[lost].name}: {reasons.get(lost, 'the board does not say why')}.",
            )
    except BaseException:
        board.remove([board.path(temporary) for temporary in temporaries.values()])
        raise


def _admit(board: Board, entries: Sequence[Mapping[str, Any]], timeout_s: float) -> dict[str, Any]:
    for pause_s in (*LOCK_PAUSES_S, None):
        report = board.run_job([{"op": "admit", "objects": list(entries)}], timeout_s=timeout_s)
        try:
            return board.result(report, 0)
        except LeaseError:
            if pause_s is None:
                raise
            time.sleep(pause_s)
    raise AssertionError("unreachable")


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.1f} MiB"
