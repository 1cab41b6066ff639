"""Whether a release that was just activated may stay: it is taken, computes what it should and is quick enough."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING, Any

from .manifests import CONTRACT, MODEL, PROBE, file_of
from .releases import path_of
from .runtimes import RUNTIMES
from .stopping import running

if TYPE_CHECKING:
    from collections.abc import Callable

    from .children import Children

_HEALTH_PAUSE_S = 0.5
_MIN_RUNS, _MAX_RUNS = 32, 20_000
_WARM_UP = {"min_runs": 10, "min_seconds": 0.1, "max_seconds": 10.0}
_TAIL_BYTES = 2048


class Failed(Exception):
    """A release did not pass its probation; the message is the reason."""


class Proof:
    """What was measured while a release proved itself: medians of a run in ns, None where there is none."""

    def __init__(self) -> None:
        self.p50_ns: int | None = None
        self.before_p50_ns: int | None = None
        self.notes: list[str] = []


def prove(root: str, manifest: dict[str, Any], before: dict[str, Any] | None, children: Children) -> Proof:
    """Put the active release to the test, each step as often as the manifest says. Raises Failed, OSError.

    The application reloads and is healthy, the model loads in its runtime, gives for the golden inputs what the host
    saw, its median run is within the limits: absolutely, and beside that of the release before in this minute; and the
    application is healthy still.
    """
    proof = Proof()
    hooks, asked = manifest["hooks"], manifest["probation"]

    def compute() -> None:
        proof.p50_ns = _p50_ns(root, manifest, asked, children)
        if before is not None and asked["max_ratio"] is not None:
            try:
                proof.before_p50_ns = _p50_ns(root, before, asked, children)
            except Failed as error:
                # What is wrong with the old release is no fault of the new one.
                proof.notes.append(f"the release before could not be measured beside it: {error}"[:1000])
        _check_pace(asked, proof)

    def stay_healthy() -> None:
        why = unhealthy(root, hooks, manifest, output)
        if why:
            raise Failed(f"the application was healthy at first, and no longer is: {why}")

    output = children.path("hook")
    # One that dies of what it has loaded was well when it was asked right after its start.
    for step in (lambda: tell(root, hooks, manifest, output), compute, stay_healthy):
        _try(step, asked["attempts"], asked["pause_s"])
    if hooks["reload"] is None:
        proof.notes.append("no reload is set, so that no application was told")
    if asked["max_p50_ms"] is None:
        proof.notes.append("its latency was not measured here before, so that it was held against nothing")
    return proof


def tell(root: str, hooks: dict[str, Any], manifest: dict[str, Any] | None, output: str) -> None:
    """Have the application reload and wait until it is healthy. Raises Failed, OSError.

    `manifest` is that of the active release, None where none is; `output` is a file for what the commands say.
    """
    environment = _environment(root, manifest)
    if hooks["reload"] is not None:
        _, why = _run(hooks["reload"], hooks["reload_timeout_s"], environment, output)
        if why:
            raise Failed(f"the reload command failed: {why}")
    if hooks["health"] is not None:
        deadline = time.monotonic() + hooks["health_timeout_s"]
        while True:
            healthy, why = _run(hooks["health"], max(0.1, deadline - time.monotonic()), environment, output)
            if healthy:
                return
            if time.monotonic() + _HEALTH_PAUSE_S > deadline:
                raise Failed(f"the application was not healthy within {hooks['health_timeout_s']:g} s: {why}")
            time.sleep(_HEALTH_PAUSE_S)  # an application loads for a while, and asking costs it


def unhealthy(root: str, hooks: dict[str, Any], manifest: dict[str, Any] | None, output: str) -> str:
    """Ask once whether the application is healthy; return why it is not, "" where it is or cannot be asked."""
    if hooks["health"] is None:
        return ""
    return _run(hooks["health"], hooks["health_timeout_s"], _environment(root, manifest), output)[1]


def _environment(root: str, manifest: dict[str, Any] | None) -> dict[str, str]:
    current = os.path.join(root, "current")
    environment = dict(os.environ, EDGEDEPLOY_CURRENT=current, EDGEDEPLOY_RELEASE="", EDGEDEPLOY_MODEL="")
    if manifest is not None:
        environment["EDGEDEPLOY_RELEASE"] = str(manifest["number"])
        environment["EDGEDEPLOY_MODEL"] = os.path.join(current, file_of(manifest, MODEL)["path"])
    # A login without PAM, or the start of the board, does not say where the services of this user are asked for.
    services = f"/run/user/{os.getuid()}"
    if os.path.isdir(services):
        environment.setdefault("XDG_RUNTIME_DIR", services)
    return environment


def _try(step: Callable[[], None], attempts: int, pause_s: float) -> None:
    for attempt in range(1, attempts + 1):
        try:
            step()
        except Failed as error:  # noqa: PERF203 - a few times in a minute
            if attempt == attempts:
                raise Failed(f"{error} (attempt {attempt} of {attempts})") from error
            time.sleep(pause_s)  # what else held the board up is to pass: the user says for how long to wait
        else:
            return


def _specification(root: str, manifest: dict[str, Any]) -> dict[str, Any]:
    """What a worker must know to run a release's model."""
    if manifest["variant"]["format"] not in RUNTIMES:
        raise Failed(f"no runtime is known for the format {manifest['variant']['format']!r}")
    run = manifest["run"]
    return {
        "artifact": path_of(root, manifest, MODEL),
        "contract": path_of(root, manifest, CONTRACT),
        "probe": path_of(root, manifest, PROBE),
        "tolerance": manifest["probation"]["tolerance"],
        "threads": run["threads"],
        "accelerator": {
            "name": run["accelerator"],
            "switch": run["switch"],
            "caches": os.path.join(os.path.abspath(root), "caches", file_of(manifest, MODEL)["sha256"]),
        },
    }


def _p50_ns(root: str, manifest: dict[str, Any], asked: dict[str, Any], children: Children) -> int:
    """Return the median run of a release whose outputs are what they should be. Raises Failed, OSError."""
    specification = dict(
        _specification(root, manifest),
        warm_up=_WARM_UP,
        min_runs=_MIN_RUNS,
        min_seconds=asked["steady_s"],
        max_runs=_MAX_RUNS,
    )
    answer = children.run("trial", specification, asked["child_timeout_s"])
    if answer["outcome"] != "ok":
        raise Failed(f"the model does not do what it should: {answer['outcome']}: {answer['detail']}")
    samples = sorted(answer["samples_ns"])
    return int(samples[len(samples) // 2])


def _check_pace(asked: dict[str, Any], proof: Proof) -> None:
    assert proof.p50_ns is not None
    p50_ms, limit_ms = proof.p50_ns / 1e6, asked["max_p50_ms"]
    if limit_ms is not None and p50_ms > limit_ms:
        raise Failed(f"a run takes {p50_ms:.4g} ms, and {limit_ms:.4g} ms is the limit")
    if proof.before_p50_ns is not None and proof.p50_ns > asked["max_ratio"] * proof.before_p50_ns:
        ratio = proof.p50_ns / max(1, proof.before_p50_ns)
        raise Failed(
            f"a run takes {ratio:.3g} times what it took with the release before in the same minute, "
            f"and {asked['max_ratio']:.3g} times is the limit"
        )


def _run(argv: list[str], timeout_s: float, environment: dict[str, str], path: str) -> tuple[bool, str]:
    """Run a command of the user's; return whether it succeeded, and what it came to where it did not."""
    home = os.path.expanduser("~")
    try:
        with open(path, "wb") as output, running(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=home if os.path.isdir(home) else "/",
            env=environment,
        ) as process:
            try:
                status = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return False, f"`{argv[0]}` did not end within {timeout_s:.3g} s"
    except OSError as error:
        return False, f"`{argv[0]}` cannot be run: {error.strerror}"
    if status == 0:
        return True, ""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - _TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    # The last words of systemctl are where to read on: those before say what went wrong.
    last = next((line for line in reversed(lines) if not line.startswith("See ")), "").rstrip(".")[:300]
    end = f"exit code {status}" if status > 0 else f"signal {-status}"
    return False, f"`{argv[0]}` ended with {end}" + (f": {last}" if last else "")
