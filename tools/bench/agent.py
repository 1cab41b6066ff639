"""Measures whether the agent's figure is the runtime's own: its median beside that of a bare loop."""

from __future__ import annotations

import hashlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tools.bench import bare_loop
from tools.bench.nets import MEDIUM, SMALL, Net
from tools.bench.rows import OURS, BenchError, Row, interleave, ratio_row

TITLE = "The agent's median beside a bare loop"
HOW = (
    "One inference on one thread of the CPU, the median of at least 150 runs and half a second, each time in a "
    "process of its own, 25 rounds. Ours is the whole on-device agent as a board runs it: the packed file, a job,"
    " a report. The peer is a plain loop around `InferenceSession.run` (`tools/bench/bare_loop.py`). 1 means that"
    " the agent adds nothing; the aim is to stay within 2 %."
)
TOOLS = ("edgedeploy", "onnxruntime", "numpy", "onnx")
BARE = "bare onnxruntime loop"
# One whose call takes tens of microseconds, and one whose call takes milliseconds.
NETS = (SMALL, MEDIUM)
ROUNDS = 25
WARM_UP_S, MIN_RUNS, MIN_S = 0.3, 150, 0.5
TIMEOUT_S = 120


def run() -> list[Row]:
    """Compare the two on each net."""
    return [_compare(net) for net in NETS]


def _compare(net: Net) -> Row:
    with tempfile.TemporaryDirectory(prefix="edgedeploy-bench-") as folder:
        contenders = {OURS: _agent(net, Path(folder)), BARE: _bare(net, Path(folder))}
        samples = interleave(contenders, ROUNDS)
    task = f"{net.name}, {net.parameters():,} parameters, about {statistics.median(samples[BARE]) / 1e6:.2g} ms"
    return ratio_row(task, samples, BARE, "median")


def _example(net: Net) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(1).standard_normal((4, *net.input_shape)).astype(np.float32)


def _bare(net: Net, folder: Path) -> Callable[[], float]:
    model, example = folder / "net.onnx", folder / "example.npy"
    model.write_bytes(net.onnx())
    np.save(example, _example(net)[:1])
    settings = [str(WARM_UP_S), str(MIN_RUNS), str(MIN_S)]
    argv = [sys.executable, str(bare_loop.__file__), str(model), str(example), *settings]
    return lambda: float(_run(argv))


def _agent(net: Net, folder: Path) -> Callable[[], float]:
    from edgedeploy.board.bundle import agent_bundle

    agent, job, report = folder / "agent.pyz", folder / "job.json", folder / "report.json"
    agent.write_bytes(agent_bundle()[0])
    board = folder / "board"
    objects = {"artifact": net.onnx(), "contract": _contract(net), "probe": _probe(net)}
    variant = {role: _admit(board, content) for role, content in objects.items()}
    operation = {
        "op": "profile",
        "mode": "bench",
        "threads": 1,
        "accelerator": "cpu",
        "seed": 0,
        "repetitions": 1,
        "min_runs": MIN_RUNS,
        "min_seconds": MIN_S,
        "warm_up": {"min_runs": 30, "min_seconds": WARM_UP_S, "max_seconds": 5.0},
        "child_timeout_s": TIMEOUT_S / 4,
        "variants": [{"id": net.name, "format": "onnx", "tolerance": 1e-3, **variant}],
    }
    job.write_text(json.dumps({"schema": 1, "root": str(board), "operations": [operation]}))

    def measure() -> float:
        _run([sys.executable, str(agent), str(job), str(report)])
        result = json.loads(report.read_text("utf-8"))["results"][0]
        report.unlink()
        if "error" in result:
            raise BenchError(f"agent: {result['error']['message']}")
        measured = result["variants"][0]
        if measured["outcome"] != "ok":
            raise BenchError(f"agent: {net.name}: {measured['outcome']}: {measured['detail']}")
        samples_ns: list[int] = measured["repetitions"][0]["samples_ns"]
        return statistics.median(samples_ns)

    return measure


def _admit(board: Path, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    path = board / "objects" / "sha256" / digest
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return digest


def _contract(net: Net) -> bytes:
    tensor = {"type": "float32", "real_type": "float32", "scale": None, "zero_point": None}
    contract = {
        "schema": 1,
        "format": "onnx",
        "precision": "fp32",
        "inputs": [{"name": "x", "shape": [1, *net.input_shape], **tensor}],
        "outputs": [{"name": "y", "shape": [1, net.classes], **tensor}],
        "layout": "NCHW",
        "preprocessing": "",
        "labels": [],
    }
    return json.dumps(contract).encode()


def _probe(net: Net) -> bytes:
    import onnxruntime

    session = onnxruntime.InferenceSession(net.onnx(), providers=["CPUExecutionProvider"])
    example = _example(net)
    outputs = np.concatenate([session.run(None, {"x": example[at : at + 1]})[0] for at in range(len(example))])
    file = io.BytesIO()
    np.savez(file, input_0=example, output_0=outputs)
    return file.getvalue()


def _run(argv: list[str]) -> str:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise BenchError(f"agent: `{Path(argv[1]).name}` failed: {last}")
    return done.stdout
