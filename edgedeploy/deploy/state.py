"""Reads what a board says about its releases, believing of it what a signature covers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from edgedeploy.board import Board
from edgedeploy.board.push import HASHED_BYTES_PER_S
from edgedeploy.board.untrusted import one_line
from edgedeploy.deploy.keys import signer_of
from edgedeploy.on_device.checks import MalformedDocument
from edgedeploy.on_device.manifests import MODEL, file_of, read_manifest
from edgedeploy.on_device.sshsig import MANIFEST_NAMESPACE
from edgedeploy.records import BoardReleases, Device, Release

JOB_TIMEOUT_S = 300.0


def look_timeout_s(board: Board) -> float:
    """How long a board may take for a `releases` operation, which hashes the releases that its probe saw there."""
    return JOB_TIMEOUT_S + board.facts.release_bytes / HASHED_BYTES_PER_S


def ask(board: Board) -> dict[str, Any]:
    """The board's `releases` result, alone in its job. Raises the errors of `Board.run_job`."""
    return board.result(board.run_job([{"op": "releases"}], timeout_s=look_timeout_s(board)), 0)


def read_state(device: Device, result: Mapping[str, Any]) -> BoardReleases:
    """The record of a board's `releases` result, which has passed the schema."""
    trust = result["trust"]
    return BoardReleases(
        device=device.name,
        profile=device.profile,
        current=_release(result["current"], trust),
        previous=_release(result["previous"], trust),
        highest=result["highest"],
        trusted=one_line(trust["fingerprint"], 100) if trust else None,
        seen_at=datetime.now(UTC).isoformat(timespec="seconds"),
        recovered=one_line(result["recovered"]),
    )


def active_manifest(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of the active release, where it is one that the trusted key signed and its files are whole."""
    current, trust = result["current"], result["trust"]
    if current is None or trust is None or current["drift"]:
        return None
    if signer_of(current["manifest"], current["signature"], MANIFEST_NAMESPACE) != trust["fingerprint"]:
        return None
    try:
        return read_manifest(current["manifest"])
    except MalformedDocument:
        return None


def _release(said: Mapping[str, Any] | None, trust: Mapping[str, Any] | None) -> Release | None:
    if said is None:
        return None
    drift = [one_line(line, 300) for line in said["drift"]]
    signer = signer_of(said["manifest"], said["signature"], MANIFEST_NAMESPACE)
    try:
        manifest = read_manifest(said["manifest"])
    except MalformedDocument as error:
        drift.append(one_line(f"manifest.json: {error}", 300))
        return Release(
            said["number"], "", "", "", 0, signer or "", "", "", _time(said["since_unix_ns"] / 1e9), tuple(drift)
        )
    if signer is None:
        drift.append("manifest.json: its signature is wrong")
    elif trust is None or signer != trust["fingerprint"]:
        drift.append(f"manifest.json: it is signed by {signer}, which the board does not trust now")
    model = file_of(manifest, MODEL)
    return Release(
        number=said["number"],
        variant_id=one_line(manifest["variant"]["id"], 100),
        variant_name=one_line(manifest["variant"]["name"], 200),
        model_sha256=model["sha256"],
        model_bytes=model["size_bytes"],
        key=signer or "",
        issued_at=_time(manifest["issued_unix"]),
        expires_at=_time(manifest["expires_unix"]),
        since=_time(said["since_unix_ns"] / 1e9),
        drift=tuple(drift),
    )


def _time(unix: float) -> str:
    try:
        return datetime.fromtimestamp(unix, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return ""
