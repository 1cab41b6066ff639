"""Measures what quantising costs and brings: every precision in both formats, the peers' files, and the wall time."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edgedeploy.records import Format, Precision
from tools.bench import contenders, losses, subjects, wall_time
from tools.bench.contenders import PEERS, Contender
from tools.bench.judging import Judged, judge
from tools.bench.rows import OURS, Row
from tools.bench.subjects import Subject
from tools.bench.tables import Cell, Table

TITLE = "Quantising"
HOW = (
    "Digits nets of five families are trained here, with a fixed seed, on scikit-learn's 8x8 digits; `accuracy`"
    " is that of the exported file in its own runtime on the 397 images of the test split, `drop at most` the "
    "upper bound of what it lost against the net in PyTorch (paired, 95 %), `error` the relative RMS error of "
    "its outputs; where a pass trained for a precision, both are against the net as it was before. The weights "
    "of the two 224x224 nets are random, with settled batch norms: there `accuracy` is how often the arg-max is"
    " that of the net in PyTorch, on 96 images of structured noise. `speed-up` is over the fp32 file of the "
    "same net and format, one inference on one thread, 31 rounds, all files of a net and a format in the same "
    "rounds, and `spread` its interquartile range: below 1, the file is slower than fp32. The peers quantise "
    "our fp32 ONNX file, each in an environment of its own with every default, calibrated on the same examples;"
    " `static-transformer` is NNCF's `ModelType.TRANSFORMER`. All files are judged by the same onnxruntime. The"
    " last table takes for each figure the best peer, and says what was `lost` to whom beyond the noise. Wall "
    "time is that of fresh processes, 7 rounds, that load the trained digits CNN and write an fp32, an fp16 and"
    " a static int8 ONNX file; ours also loads each of them in a process of its own. Where each file is judged,"
    " both measure its accuracy, and ours holds its outputs against those of the net as well. The peers' "
    "reports to their makers are switched off."
)
TOOLS = ("edgedeploy", "onnxruntime", "ai-edge-litert", "ai-edge-quantizer", "torch", "onnx")
MATRIX = "Every precision in both formats"
BESIDE_PEERS = "Beside peers, as ONNX"
LOST = "Ours beside the best of the peers"
_FIGURES = ("accuracy", "drop at most", "error", "bytes", "zipped", "speed-up", "spread", "remark")
# What stands in the table of the peers: where they have nothing like it, ours is in the first table alone.
_BESIDE = (Precision.FP32, Precision.FP16, Precision.INT8_DYNAMIC, Precision.INT8)


def run() -> list[Row | Table]:
    """Fill all tables."""
    matrix: list[tuple[Cell, ...]] = []
    beside: list[tuple[Cell, ...]] = []
    lost: list[tuple[Cell, ...]] = []
    waited: list[Row | Table] = []
    for name, make in subjects.digits().items():
        subject = _made(name, make)
        waited += wall_time.run(subject) if name == wall_time.NET else []
        for file_format in Format:
            with_peers = file_format is Format.ONNX
            judged = _judged(subject, file_format, with_peers)
            matrix += [(name, str(file_format), each.what, *cells(each)) for each in judged if each.by == OURS]
            beside += beside_peers(name, judged) if with_peers else []
            lost += losses.rows(name, judged)
    for name, make in subjects.image_shapes().items():
        judged = _judged(_made(name, make), Format.ONNX, with_peers=True)
        beside += beside_peers(name, judged)
        lost += losses.rows(name, judged)
    return [
        *waited,
        Table(MATRIX, ("net", "format", "precision", *_FIGURES), tuple(matrix)),
        Table(BESIDE_PEERS, ("net", "by", "what", *_FIGURES), tuple(beside)),
        Table(LOST, losses.COLUMNS, tuple(lost)),
    ]


def cells(judged: Judged) -> tuple[Cell, ...]:
    """What is known of one file, under _FIGURES."""
    figures = judged.figures
    if figures is None:
        return None, None, None, None, None, None, None, judged.why
    speed = (figures.speed.ratio, figures.speed.spread) if figures.speed else (None, None)
    sizes = figures.size_bytes, figures.zipped_bytes
    return figures.accuracy, figures.drop_at_most, figures.error, *sizes, *speed, judged.why


def beside_peers(net: str, judged: Sequence[Judged]) -> list[tuple[Cell, ...]]:
    """The rows of the peers, and of ours those that they have something like."""
    forms = tuple(f"{precision}" for precision in _BESIDE)
    return [
        (net, each.by, each.what, *cells(each)) for each in judged if each.by in PEERS or each.what.startswith(forms)
    ]


def _made(name: str, make: Callable[[], Subject]) -> Subject:
    start = time.monotonic()
    subject = make()
    _tell(f"{name}: made in {time.monotonic() - start:.0f} s")
    return subject


def _judged(subject: Subject, file_format: Format, with_peers: bool) -> list[Judged]:
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgedeploy-bench-") as name:
        folder = Path(name)
        files: list[Contender] = contenders.ours(subject, file_format, folder / "ours")
        if subject.trained:
            files += contenders.trained(subject, file_format, folder / "trained")
        if with_peers and files[0].path is not None:
            files += contenders.of_peers(subject, files[0], folder / "peers")
        judged = judge(subject, files)
    _tell(f"{subject.name}, {file_format}: {len(files)} files in {time.monotonic() - start:.0f} s")
    return judged


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
