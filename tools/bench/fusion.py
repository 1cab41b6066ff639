"""What fusing operators buys, which the exporter and the runtime do by themselves: the same file with and without."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgedeploy.onnx_session import open_session
from edgedeploy.records import Precision
from tools.bench.coders import exported
from tools.bench.judging import speed_ups, turn
from tools.bench.rows import interleave
from tools.bench.subjects import Subject
from tools.bench.tables import Cell, Table

COLUMNS = ("net", "nodes as exported", "nodes as run", "speed-up", "spread")
ROUNDS = 31


def table(subjects: list[Subject]) -> Table:
    """One row a net: nodes before and after ONNX Runtime fused them, and what that buys in time."""
    return Table("What fusing operators buys in ONNX Runtime", COLUMNS, tuple(map(row, subjects)))


def row(subject: Subject, rounds: int = ROUNDS) -> tuple[Cell, ...]:
    """Both sessions of one file in the same rounds, one inference of one example on one thread."""
    import onnx

    with tempfile.TemporaryDirectory(prefix="edgedeploy-bench-") as name:
        fused = Path(name) / "fused.onnx"
        content = exported(subject, subject.net, Precision.FP32)
        sessions = {"0": open_session(content, fuse=False), "fused": open_session(content, fused)}  # the base first
        nodes = [len(onnx.load_from_string(each).graph.node) for each in (content, fused.read_bytes())]
    calls = {each: turn(_call(session, subject)) for each, session in sessions.items()}
    speed = speed_ups(interleave(calls, rounds))["fused"]
    return subject.name, *nodes, speed.ratio, speed.spread


def _call(session: Any, subject: Subject) -> Callable[[], object]:
    names = [each.name for each in session.get_inputs()]
    feed = dict(zip(names, (array[:1] for array in subject.task.test.inputs), strict=True))
    return lambda: session.run(None, feed)
