"""Measures what each technique of compression costs and buys, family by family, in both formats and beside peers."""

from __future__ import annotations

import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from edgedeploy.on_device.children import Children
from edgedeploy.on_device.runtimes import RUNTIMES
from edgedeploy.records import Format
from tools.bench import fusion
from tools.bench.contenders import Contender
from tools.bench.judging import Judged, judge
from tools.bench.rows import BenchError, Row
from tools.bench.subjects import Subject
from tools.bench.tables import Cell, Table
from tools.bench.trying import NETS, File, Tried, buys, subject_of

TITLE = "Compressing"
HOW = (
    "Four digits nets are trained here from three seeds, which decide the start and the splits of scikit-learn's 8x8 "
    "digits. Each technique works on a copy of each; `before` and `after` are the mean accuracy on the 397 images of "
    "the test split, in PyTorch for what is exported in float32 (its files are held to the net's outputs), and of the "
    "file itself for int8; `worst` is the largest loss of the three. The control, fine-tuning alone, says what more "
    "training does by itself. Counts, sizes and speed are those of the first seed: bytes of the file, of the file "
    "packed, and of memory (peak RSS over that of the runtime alone, in a process of its own). `speed-up` is over the "
    "file of the source net in the same format, one inference on one thread, all files of a net and a format in the "
    "same rounds. `buys` says what got smaller by more than 1 % in the ONNX file: the file and its arithmetic, the "
    "file, `packed only` where only the packed file did, `accuracy only` where nothing did, so that only the metric "
    "can have gained, and `nothing` where something even grew. Operators are fused by the exporter and the runtime, "
    "so that no row of a net is without; the last table compares ONNX Runtime with and without its own fusion. A dash "
    "with a remark is a refusal, in the words that a user reads."
)
TOOLS = ("edgedeploy", "torch", "torch-pruning", "onnxruntime", "ai-edge-litert", "onnx")
SEEDS = (0, 1, 2)
ROUNDS = 15
TRYING_TIMEOUT_S = 3600
MEMORY_TIMEOUT_S = 60.0
MATRIX = "What each technique does to each net"
SIZES = "What is left of it after export"
_MATRIX_COLUMNS = (
    *("technique", "by", "net", "before", "after", "worst"),
    *("parameters", "not zero", "MACs", "buys", "remark"),
)
_SIZES_COLUMNS = (
    *("technique", "by", "net", "ONNX", "packed", "RAM", "speed-up", "spread"),
    *("TFLite", "packed ", "RAM ", "speed-up ", "spread ", "remark"),
)


def run() -> list[Row | Table]:
    """Try all techniques on all nets, two at a time, then time their files alone."""
    matrix: list[tuple[Cell, ...]] = []
    sizes: list[tuple[Cell, ...]] = []
    with tempfile.TemporaryDirectory(prefix="edgedeploy-bench-") as name:
        folder = Path(name)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            waiting = {(net, seed): pool.submit(_try, net, seed, folder) for seed in SEEDS for net in NETS}
            results = {key: future.result() for key, future in waiting.items()}
        subjects = [subject_of(net, SEEDS[0], folder / f"{net}-{SEEDS[0]}") for net in NETS]
        for net, subject in zip(NETS, subjects, strict=True):
            of_seeds = [results[net, seed] for seed in SEEDS]
            matrix += matrix_rows(net, of_seeds)
            sizes += _size_rows(net, of_seeds[0], subject, folder)
        fused = fusion.table(subjects)
    return [Table(MATRIX, _MATRIX_COLUMNS, tuple(matrix)), Table(SIZES, _SIZES_COLUMNS, tuple(sizes)), fused]


def _try(net: str, seed: int, folder: Path) -> list[Tried]:
    there = folder / f"{net}-{seed}"
    files = "files" if seed == SEEDS[0] else "no-files"
    argv = [sys.executable, "-m", "tools.bench.trying", net, str(seed), str(there), files]
    try:
        subprocess.run(
            argv,
            check=True,
            timeout=TRYING_TIMEOUT_S,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=sys.stderr,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"compress: {net}, seed {seed}: {error}") from error
    found: list[Tried] = pickle.loads((there / "tried.pickle").read_bytes())
    return found


def matrix_rows(net: str, of_seeds: Sequence[Sequence[Tried]]) -> list[tuple[Cell, ...]]:
    """One row a technique; where a seed made nothing, its reason and no accuracy."""
    rows: list[tuple[Cell, ...]] = []
    sources = [seed[0] for seed in of_seeds]
    before = [source.accuracy or 0.0 for source in sources]
    for place in range(1, len(of_seeds[0])):
        each = [seed[place] for seed in of_seeds]
        first = each[0]
        why = next((one.why for one in each if one.accuracy is None), "")
        if why:
            rows.append((first.technique, first.by, net, *[None] * 7, why))
            continue
        after = [one.accuracy or 0.0 for one in each]
        worst = max(b - a for b, a in zip(before, after, strict=True))
        means = statistics.fmean(before), statistics.fmean(after)
        counts = first.parameters, first.nonzero, first.macs
        rows.append(
            (first.technique, first.by, net, *map(_figure, (*means, worst)), *counts, buys(sources[0], first), "")
        )
    return rows


def _size_rows(net: str, found: Sequence[Tried], subject: Subject, folder: Path) -> list[tuple[Cell, ...]]:
    columns = {file_format: _format_cells(found, file_format, subject, folder) for file_format in Format}
    rows: list[tuple[Cell, ...]] = []
    for place, one in enumerate(found):
        if one.files is None:
            continue
        why = [f"{f.value}: {one.files[f].why}" for f in Format if one.files[f].why]
        cells = [cell for file_format in Format for cell in columns[file_format][place]]
        rows.append((one.technique, one.by, net, *cells, "; ".join(why)))
    return rows


def _format_cells(
    found: Sequence[Tried], file_format: Format, subject: Subject, folder: Path
) -> list[tuple[Cell, ...]]:
    """Size, packed size, RAM, speed-up and its spread of each one's file in a format."""
    files = [one.files[file_format] if one.files else File(why=one.why) for one in found]
    contenders = [
        Contender(one.by, one.technique, file.path, file.contract, file.why)
        for one, file in zip(found, files, strict=True)
    ]
    judged = judge(subject, contenders, ROUNDS)
    alone = _peak_rss("baseline", {"runtime": RUNTIMES[file_format][0][0]}, folder)
    return [
        (file.size_bytes, file.packed_bytes, _memory(file, alone, folder), *_speed(each))
        for file, each in zip(files, judged, strict=True)
    ]


def _speed(judged: Judged) -> tuple[float | None, float | None]:
    speed = judged.figures.speed if judged.figures else None
    return (_figure(speed.ratio), _figure(speed.spread)) if speed else (None, None)


def _memory(file: File, alone: int | None, folder: Path) -> int | None:
    """Peak RSS of the file's process over that of its runtime alone, as the agent on a board takes it."""
    if file.path is None or file.probe is None or file.contract is None or alone is None:
        return None
    with tempfile.NamedTemporaryFile("w", dir=folder, encoding="utf-8") as contract:
        contract.write(json.dumps(file.contract))
        contract.flush()
        specification: dict[str, Any] = {
            "artifact": str(file.path),
            "contract": contract.name,
            "probe": str(file.probe),
            "threads": 1,
            "accelerator": {"name": "cpu", "switch": None, "caches": str(folder)},
        }
        loaded = _peak_rss("memory", specification, folder)
    return None if loaded is None else max(0, loaded - alone)


def _peak_rss(task: str, specification: dict[str, Any], folder: Path) -> int | None:
    with tempfile.TemporaryDirectory(dir=folder) as workspace:
        answer = Children(workspace).run(task, specification, MEMORY_TIMEOUT_S)
    return answer["peak_rss_bytes"] if answer["outcome"] == "ok" else None


def _figure(value: float) -> float:
    return float(f"{value:.4g}")
