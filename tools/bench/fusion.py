"""What fusing operators buys, which the exporter and the runtime do by themselves: the same file with and without."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedeploy import export
from edgedeploy.records import Format, Precision, Target
from tools.bench.judging import speed_ups, turn
from tools.bench.rows import interleave
from tools.bench.subjects import Subject
from tools.bench.tables import Cell, Table

if TYPE_CHECKING:
    import numpy as np

COLUMNS = ("net", "nodes as exported", "nodes as run", "speed-up", "spread")
ROUNDS = 31


def table(subjects: list[Subject]) -> Table:
    """One row a net: nodes before and after ONNX Runtime fused them, and what that buys in time."""
    return Table("What fusing operators buys in ONNX Runtime", COLUMNS, tuple(map(row, subjects)))


def row(subject: Subject, rounds: int = ROUNDS) -> tuple[Cell, ...]:
    """Both sessions of one file in the same rounds, one inference of one example on one thread."""
    import onnx

    with tempfile.TemporaryDirectory(prefix="edgedeploy-bench-") as name:
        folder = Path(name)
        path = export.export(subject.net, Target(Format.ONNX, Precision.FP32), subject.task, folder).path
        fused = folder / "fused.onnx"
        calls = {
            "0": _call(path, subject, None),  # the base
            "fused": _call(path, subject, fused),
        }
        nodes = [len(onnx.load(each).graph.node) for each in (path, fused)]
    speed = speed_ups(interleave({each: turn(call) for each, call in calls.items()}, rounds))["fused"]
    return subject.name, *nodes, float(f"{speed.ratio:.4g}"), float(f"{speed.spread:.4g}")


def _call(path: Path, subject: Subject, fused: Path | None) -> Callable[[], list[np.ndarray]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if fused is None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    else:
        options.optimized_model_filepath = str(fused)
    session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    feed = dict(zip(names, (array[:1] for array in subject.task.test.inputs), strict=True))
    return lambda: session.run(None, feed)
