"""Measures how long the whole way takes, from a torch net to three ONNX files: ours beside Olive's."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tools.bench import environments
from tools.bench.environments import PeerFailed
from tools.bench.rows import OURS, Row, interleave, ratio_row
from tools.bench.subjects import Subject
from tools.bench.tables import Table

NET = "digits CNN"
OLIVE = "Olive"
ROUNDS = 7
TIMEOUT_S = 600
TITLE = "From the net to three files"
# What both do beyond writing the files, and how a row says it.
JOBS = {"plain": "files alone", "judged": "each file judged"}


def run(subject: Subject) -> list[Row | Table]:
    """One row a kind of job, or a table that says why there is none."""
    with tempfile.TemporaryDirectory(prefix="edgedeploy-bench-") as name:
        weights, data = _written(subject, Path(name))
        return [_compare(how, what, weights, data) for how, what in JOBS.items()]


def _compare(how: str, what: str, weights: Path, data: Path) -> Row | Table:
    task = f"{weights.stem} to fp32, fp16, int8 ONNX, {what}"
    nets = Path(__file__).with_name("digits_nets.py")
    ours = [sys.executable, "-m", "tools.bench.our_job", str(weights), str(data)]
    try:
        python = environments.interpreter("olive")
        theirs = [str(python), str(environments.PEERS / "olive_job.py"), str(nets), str(weights), str(data)]
        samples = interleave({OURS: _seconds(ours, how), OLIVE: _seconds(theirs, how)}, ROUNDS)
    except PeerFailed as error:
        return Table(TITLE, ("task", "by", "remark"), ((task, OLIVE, str(error)),))
    return ratio_row(task, samples, OLIVE, "wall time")


def _seconds(argv: list[str], how: str) -> Callable[[], float]:
    def measure() -> float:
        with tempfile.TemporaryDirectory(prefix="edgedeploy-bench-") as folder:
            start = time.perf_counter()
            environments.run([*argv, folder, how], TIMEOUT_S)
            elapsed = time.perf_counter() - start
            files = [path for path in Path(folder).rglob("model.onnx") if "cache" not in path.parts]
        if len(files) != len(("fp32", "fp16", "int8")):
            raise PeerFailed(f"failed: left {len(files)} of 3 files")
        return elapsed

    return measure


def _written(subject: Subject, folder: Path) -> tuple[Path, Path]:
    """The net's weights and its data, as both jobs read them."""
    import torch

    weights, data = folder / f"{subject.name}.pt", folder / "data.npz"
    torch.save(subject.net.state_dict(), weights)
    task = subject.task
    np.savez(
        data,
        calibration=task.calibration.inputs[0],
        selection=task.selection.inputs[0],
        targets=task.selection.targets,
    )
    return weights, data
