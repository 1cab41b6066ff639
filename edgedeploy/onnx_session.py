"""onnxruntime as the host uses it by itself: one thread, no chatter, and its exceptions told from all others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgedeploy.on_device.runtime_onnx import own_errors


@contextmanager
def translated(to: Callable[[Exception], Exception]) -> Iterator[None]:
    """Raise what `to` makes of an exception of onnxruntime's own; any other is left alone."""
    import onnxruntime

    try:
        yield
    except own_errors(onnxruntime) as error:
        raise to(error) from error


def open_session(content: bytes, optimised: Path | None = None, *, fuse: bool = True) -> Any:
    """A session on the CPU, the same sums on every machine; `optimised` is where to write what becomes of the graph.

    Without `fuse` the graph is run as it stands in the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not fuse:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
