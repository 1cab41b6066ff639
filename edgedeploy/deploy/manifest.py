"""Writes what is signed: which files a release is, for whom, until when, and what it must prove on the board."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import Any

from edgedeploy.board.push import HASHED_BYTES_PER_S
from edgedeploy.on_device.manifests import CONTRACT, MANIFEST_SCHEMA, MODEL, PROBE, read_manifest
from edgedeploy.records import Artifact, DeploySettings, Device, Variant

DEFAULTS = DeploySettings(
    valid_days=30.0,
    reload_timeout_s=60.0,
    health_timeout_s=60.0,
    attempts=3,
    pause_s=1.0,
    max_slowdown=1.5,
    steady_s=1.0,
)


@dataclass(frozen=True, slots=True)
class Run:
    """How the board is to run the model, and what it must keep to.

    `switch` is how an accelerator is switched on, None for the CPU. `tolerance` is relative to the outputs' range.
    `p50_ms` is the median run when the variant was measured on this board, None where it was not.
    """

    threads: int
    accelerator: str
    switch: dict[str, Any] | None
    tolerance: float
    child_timeout_s: float
    p50_ms: float | None


def settled(*settings: DeploySettings) -> DeploySettings:
    """One set of settings, the first authority first, with commands in the place of systemd units."""
    result = DeploySettings()
    for each in (*settings, DEFAULTS):
        result = result.over(each)
    if (unit := result.unit or result.user_unit) is not None:
        systemctl = ("systemctl", *(() if result.unit else ("--user",)))
        # A unit that failed with one release as often as its start limit allows would not start with the next.
        forgive, restart = " ".join((*systemctl, "reset-failed")), " ".join((*systemctl, "reload-or-restart"))
        result = replace(
            result,
            reload=("sh", "-c", f'{forgive} -- "$1" 2>/dev/null; exec {restart} -- "$1"', "sh", unit),
            health=(*systemctl, "is-active", "--quiet", "--", unit),
        )
    return result


def write_manifest(
    number: int,
    device: Device,
    variant: Variant,
    lying: Artifact,
    run: Run,
    settings: DeploySettings,
    max_ratio: float | None,
) -> str:
    """The text to sign. `lying` is what of the model's file lies on the board: itself, or its container.

    Raises ValueError for one that no board would take.
    """
    now = int(time.time())
    assert settings.valid_days is not None
    assert settings.max_slowdown is not None
    form = variant.target.format.value
    packed = None if lying == variant.artifact else {"sha256": lying.sha256, "size_bytes": lying.size_bytes}
    files = (
        (MODEL, f"model.{form}", variant.artifact, packed),
        (CONTRACT, "contract.json", variant.contract, None),
        (PROBE, "probe.npz", variant.probe, None),
    )
    manifest = {
        "schema": MANIFEST_SCHEMA,
        "kind": "release",
        "number": number,
        "profile": device.profile,
        "device": device.name,
        "issued_unix": now,
        "expires_unix": now + max(1, int(settings.valid_days * 86_400)),
        "variant": {"id": variant.id, "name": variant.name, "format": form},
        "files": [
            {"role": role, "path": path, "sha256": file.sha256, "size_bytes": file.size_bytes, "packed": container}
            for role, path, file, container in files
        ],
        "run": {"threads": run.threads, "accelerator": run.accelerator, "switch": run.switch},
        "hooks": {
            "reload": settings.reload and list(settings.reload),
            "reload_timeout_s": settings.reload_timeout_s,
            "health": settings.health and list(settings.health),
            "health_timeout_s": settings.health_timeout_s,
        },
        "probation": {
            "attempts": settings.attempts,
            "pause_s": settings.pause_s,
            "tolerance": run.tolerance,
            "steady_s": settings.steady_s,
            "child_timeout_s": run.child_timeout_s,
            "max_p50_ms": None if run.p50_ms is None else run.p50_ms * settings.max_slowdown,
            "max_ratio": max_ratio,
        },
    }
    text = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n"
    read_manifest(text)  # what no board would take is not signed either
    return text


def same_release(manifest: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether both are the same files for the same board, told to the application in the same way."""
    return all(manifest[key] == wanted[key] for key in ("profile", "device", "variant", "run", "hooks")) and [
        (entry["role"], entry["path"], entry["sha256"]) for entry in manifest["files"]
    ] == [(entry["role"], entry["path"], entry["sha256"]) for entry in wanted["files"]]


def longest_s(manifest: dict[str, Any]) -> float:
    """How long a board may be at activating a release, and at taking it back."""
    asked, hooks = manifest["probation"], manifest["hooks"]
    told_s = hooks["reload_timeout_s"] + hooks["health_timeout_s"]
    # It is hashed when it is staged, right before it is activated, and as what is active and what is before.
    hashing_s = 5 * sum(entry["size_bytes"] for entry in manifest["files"]) / HASHED_BYTES_PER_S
    # Each attempt may try both releases; the container is rebuilt once.
    attempt_s = told_s + hooks["health_timeout_s"] + 2 * asked["child_timeout_s"] + asked["pause_s"]
    return float(120.0 + hashing_s + asked["child_timeout_s"] + asked["attempts"] * attempt_s + 2 * told_s)
