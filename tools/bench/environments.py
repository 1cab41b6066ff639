"""Makes each peer an environment of its own, once, from its pinned packages: theirs do not go together with ours."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ROOT / "build" / "bench" / "envs"
PEERS = Path(__file__).parent / "peers"
INSTALL_TIMEOUT_S = 1800


class PeerFailed(Exception):
    """A peer could not be installed or did not do its job; the message is what its row says."""


def interpreter(peer: str, peers: Path = PEERS, environments: Path = ENVIRONMENTS) -> Path:
    """Return the Python of that peer's environment, made anew where `peers`/`peer`.txt has changed.

    Raises PeerFailed.
    """
    pinned = peers / f"{peer}.txt"
    digest = hashlib.sha256(pinned.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = environments / f"{peer}-{digest}"
    python = folder / "bin" / "python"
    finished = folder / ".installed"
    if finished.exists():
        return python
    for stale in environments.glob(f"{peer}-*"):
        shutil.rmtree(stale)
    run([sys.executable, "-m", "venv", str(folder)], INSTALL_TIMEOUT_S)
    run([str(python), "-m", "pip", "install", "--quiet", "--requirement", str(pinned)], INSTALL_TIMEOUT_S)
    finished.touch()
    return python


def own_interpreter() -> Path:
    """The Python that runs this, for what our own environment has anyway."""
    return Path(sys.executable)


def run(argv: list[str], timeout_s: float) -> None:
    """Run a peer's program on one thread, its reports to its makers switched off. Raises PeerFailed with its last line.

    They are sent as it ends, and would be counted as its work.
    """
    silent = {"CI": "1", "NNCF_CI": "1", "OLIVE_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=timeout_s,
            cwd=ROOT,
            env={**os.environ, **silent, "OMP_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired as error:
        raise PeerFailed(f"failed: not done within {timeout_s:.0f} s") from error
    if done.returncode:
        raise PeerFailed(f"failed: {last_line(done.stderr) or last_line(done.stdout) or f'exit {done.returncode}'}")


def last_line(said: bytes) -> str:
    """The last line that says anything, in 200 characters: where Python names the exception."""
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
