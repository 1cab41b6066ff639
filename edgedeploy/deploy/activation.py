"""Has one board make a release active, take one back, say what it has, and clear away what nothing needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedeploy.board import Board, PushResult, lying, push
from edgedeploy.board.untrusted import one_line
from edgedeploy.deploy.enrolment import check_trust, enrol
from edgedeploy.deploy.keys import SigningKey
from edgedeploy.deploy.manifest import Run, longest_s, same_release, write_manifest
from edgedeploy.deploy.state import JOB_TIMEOUT_S, active_manifest, ask, look_timeout_s, read_state
from edgedeploy.errors import BoardError, PlanError
from edgedeploy.on_device.limits import MAX_NUMBER
from edgedeploy.on_device.manifests import read_manifest
from edgedeploy.on_device.sshsig import MANIFEST_NAMESPACE
from edgedeploy.progress import SILENT, Progress
from edgedeploy.records import Artifact, BoardReleases, DeploySettings, Device, Variant

# What systemctl says of a unit that the user may not restart, with polkit and without.
_FORBIDDEN = ("Interactive authentication required", "Access denied")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to become active on a board. `files` has the local path of each of the variant's artifacts, by SHA-256.

    `rehearsal` says that the variant was chosen on an emulated board. `p50_ms` are the medians measured on this board
    by variant id, to compare the new release with the one before.
    """

    variant: Variant
    files: Mapping[str, Path]
    run: Run
    settings: DeploySettings
    rehearsal: bool
    p50_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Activated:
    """What was to become active, and whether it was so already; medians of a run in ms, None where unknown.

    `rolled_back` says why it is not active after all, "" where it is. `enrolled` is the fingerprint of the key that
    the board trusts from now on, None where it did so before.
    """

    device: str
    variant: str
    number: int
    already: bool
    state: BoardReleases
    push: PushResult | None = None
    enrolled: str | None = None
    p50_ms: float | None = None
    before_p50_ms: float | None = None
    notes: tuple[str, ...] = ()
    rolled_back: str = ""


@dataclass(frozen=True, slots=True)
class Collected:
    """What was removed from a board, or would be, each with its kind, the first thousand of `count`."""

    device: str
    removed: tuple[str, ...]
    count: int
    freed_bytes: int
    dry_run: bool


def look(board: Board, device: Device) -> BoardReleases:
    """What the board has, and whether its files are still what was signed. Raises the errors of `Board.run_job`."""
    return read_state(device, ask(board))


def activate(
    board: Board,
    device: Device,
    wanted: Wanted,
    key: SigningKey,
    *,
    known: BoardReleases | None = None,
    afresh: bool = False,
    progress: Progress = SILENT,
) -> Activated:
    """Send a variant, sign a release of it and have the board activate and prove it.

    `known` is what the board had when it was last seen. A release that does not prove itself is rolled back, which is
    no error here. Raises PlanError for settings that no board would take, BoardError where the board refuses,
    LeaseError, AgentError, TransportError.
    """
    report = board.run_job([{"op": "releases"}], timeout_s=look_timeout_s(board))
    state = board.result(report, 0)
    if wanted.rehearsal and not (device.emulated or report["board"]["emulated"]):
        raise BoardError(
            f"{device.name}: {wanted.variant.name} was chosen in a rehearsal on an emulated board, and this board is "
            f"none; measure on it with `edgedeploy profile --device {device.name}` and select again."
        )
    check_trust(board, device, key, state["trust"])
    if state["busy"]:
        progress.step(f"another job holds {device.name}")
    enrolled = None
    if state["trust"] is None:
        if known is not None and known.trusted is not None:
            raise BoardError(
                f"{device.name}: the board trusted {known.trusted} when it was last seen ({known.seen_at}) and trusts "
                f"no key now; if it was set up anew, run `edgedeploy keys enrol --device {device.name}`."
            )
        enrolled = enrol(board, device, key).fingerprint
    variant = wanted.variant
    held = lying(board, variant)
    highest = max(state["highest"], known.highest if known else 0)
    manifest = _write(highest + 1, device, wanted, held, None)
    there = active_manifest(state)
    if there is not None and not afresh and same_release(there, read_manifest(manifest)):
        seen = read_state(device, state)
        return Activated(device.name, variant.name, there["number"], True, seen, enrolled=enrolled)
    objects = {artifact.sha256: wanted.files[artifact.sha256] for artifact in (held, variant.contract, variant.probe)}
    pushed = _push(board, device, objects, progress)
    manifest = _write(highest + 1, device, wanted, held, there)  # anew: its time begins after the push
    result, seen = _deploy(board, device, manifest, key, progress)
    if result["outcome"] == "missing":
        # Someone collected garbage between the push and now.
        _push(board, device, objects, progress)
        result, seen = _deploy(board, device, manifest, key, progress)
    if result["outcome"] == "missing":
        raise BoardError(f"{device.name}: objects vanish from {board.root} while they are pushed; who removes them?")
    return _activated(device, variant.name, result, seen, pushed, enrolled)


def back(board: Board, device: Device, number: int | None = None) -> Activated:
    """Activate the release before again, which the board verifies first; `number` is the one expected.

    It must prove itself like a new one, else the rollback is taken back. Raises as `activate`.
    """
    state = ask(board)
    before = read_state(device, state).previous
    if before is None:
        raise BoardError(f"{device.name}: there is no release before the active one to go back to.")
    try:
        deadline_s = longest_s(read_manifest(state["previous"]["manifest"]))
    except ValueError:
        deadline_s = JOB_TIMEOUT_S  # the board will refuse it, and say why
    operations: list[dict[str, Any]] = [{"op": "rollback", "number": number or before.number}, {"op": "releases"}]
    deadline_s = min(deadline_s, 86_400.0) + look_timeout_s(board)
    report = board.run_job(operations, timeout_s=deadline_s, tethered=False)
    result = board.result(report, 0)
    seen = read_state(device, board.result(report, 1))
    return _activated(device, before.variant_name, result, seen, None, None)


def collect(board: Board, device: Device, *, dry_run: bool, grace_s: float) -> Collected:
    """Remove what no release needs and nobody asked for in the last `grace_s`. Raises as `Board.run_job`."""
    operation = {"op": "collect", "dry_run": dry_run, "grace_s": grace_s}
    result = board.result(board.run_job([operation], timeout_s=JOB_TIMEOUT_S), 0)
    names = tuple(one_line(name, 200) for name in result["removed"])
    return Collected(device.name, names, result["removed_count"], result["freed_bytes"], dry_run)


def _write(number: int, device: Device, wanted: Wanted, held: Artifact, there: dict[str, Any] | None) -> str:
    if number > MAX_NUMBER:
        raise BoardError(f"{device.name}: the board says that it has seen release {number - 1}; look at it by hand.")
    ratio = None
    before_ms = wanted.p50_ms.get(there["variant"]["id"]) if there is not None else None
    if before_ms and wanted.run.p50_ms is not None and wanted.settings.max_slowdown is not None:
        ratio = wanted.settings.max_slowdown * wanted.run.p50_ms / before_ms
    try:
        return write_manifest(number, device, wanted.variant, held, wanted.run, wanted.settings, ratio)
    except ValueError as error:  # of the manifest's checks, or of a number that JSON cannot say
        raise PlanError(
            f"{device.name}: what [deploy] says makes no release that a board would take: {error}."
        ) from error


def _push(board: Board, device: Device, objects: Mapping[str, Path], progress: Progress) -> PushResult:
    progress.step(f"push to {device.name}")
    return push(board, objects, progress=lambda sent, total: progress.sent(device.name, sent, total))


def _deploy(
    board: Board, device: Device, manifest: str, key: SigningKey, progress: Progress
) -> tuple[dict[str, Any], BoardReleases]:
    document = read_manifest(manifest)
    progress.step(f"activate release {document['number']} on {device.name}")
    operation = {"op": "deploy", "manifest": manifest, "signature": key.sign(manifest, MANIFEST_NAMESPACE)}
    # Not tethered: a link that breaks must not keep the board from finishing, or from going back by itself.
    deadline_s = longest_s(document) + look_timeout_s(board)
    report = board.run_job([operation, {"op": "releases"}], timeout_s=deadline_s, tethered=False)
    return board.result(report, 0), read_state(device, board.result(report, 1))


def _activated(
    device: Device,
    variant: str,
    result: Mapping[str, Any],
    seen: BoardReleases,
    pushed: PushResult | None,
    enrolled: str | None,
) -> Activated:
    return Activated(
        device=device.name,
        variant=variant,
        number=result["number"],
        already=False,
        state=seen,
        push=pushed,
        enrolled=enrolled,
        p50_ms=_ms(result["p50_ns"]),
        before_p50_ms=_ms(result["before_p50_ns"]),
        notes=tuple(one_line(note) for note in result["notes"]),
        rolled_back=_why(result),
    )


def _why(result: Mapping[str, Any]) -> str:
    if result["outcome"] != "rolled_back":
        return ""
    now = f"release {result['before']} is active again" if result["before"] else "no release is active"
    why = one_line(result["detail"])
    if any(said in why for said in _FORBIDDEN):
        why += "; let the user who logs in restart that unit, by a rule of polkit or by sudo"
    return f"release {result['number']} was rolled back, {now}: {why}"


def _ms(value_ns: int | None) -> float | None:
    return None if value_ns is None else value_ns / 1e6
