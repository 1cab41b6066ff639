"""Measures how long a user waits for `edgedeploy --help`."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.bench.rows import OURS, BenchError, Row, interleave, ratio_row

TITLE = "Start-up of the command line"
HOW = (
    "Wall time from starting the process to its end, all programs on the same interpreter, 21 rounds. "
    "`import typer` is what any program pays that is built on typer, as ours is."
)
TOOLS = ("edgedeploy", "typer", "pip", "pytest", "onnxslim", "huggingface-hub")
ROUNDS = 21


def run() -> list[Row]:
    """Compare `edgedeploy --help` with the bare interpreter and with other programs written in Python."""
    there = installed(Path(sys.executable))
    samples = interleave({name: _wall_seconds(argv) for name, argv in there.items()}, ROUNDS)
    return [ratio_row("edgedeploy --help", samples, "python -c pass", "wall time")]


def installed(python: Path) -> dict[str, Sequence[str]]:
    """Return by name what can be started beside this interpreter. Raises BenchError where ours cannot."""
    commands: dict[str, Sequence[str]] = {
        OURS: [str(python.parent / "edgedeploy"), "--help"],
        "python -c pass": [str(python), "-c", "pass"],
        "python -c 'import typer'": [str(python), "-c", "import typer"],
        "pip --version": [str(python.parent / "pip"), "--version"],
        "pytest --version": [str(python.parent / "pytest"), "--version"],
        "onnxslim --help": [str(python.parent / "onnxslim"), "--help"],
        "hf --help": [str(python.parent / "hf"), "--help"],
    }
    there = {name: argv for name, argv in commands.items() if Path(argv[0]).exists()}
    if OURS not in there:
        raise BenchError("startup: edgedeploy is not installed beside this interpreter; run `make bench`.")
    return there


def _wall_seconds(argv: Sequence[str]) -> Callable[[], float]:
    def measure() -> float:
        start = time.perf_counter()
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
        elapsed = time.perf_counter() - start
        if done.returncode:
            last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise BenchError(f"startup: `{' '.join(argv)}` failed: {last}")
        return elapsed

    return measure
