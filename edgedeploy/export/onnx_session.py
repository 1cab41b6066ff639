"""onnxruntime as the exporter uses it: one thread, no chatter, and its exceptions in the user's terms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgedeploy.errors import ExportError
from edgedeploy.quiet import quiet

# They have no base of their own.
_ERRORS = (
    "EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException",
)  # fmt: skip


@contextmanager
def told(doing: str) -> Iterator[None]:
    """Turn what onnxruntime raises while `doing` something into an ExportError of one sentence."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    try:
        with quiet():
            yield
    except tuple(getattr(state, name) for name in _ERRORS) as error:
        raise ExportError(f"onnxruntime cannot {doing}: {str(error).strip().splitlines()[0]}") from error


def open_session(proto: Any, optimised: Path | None = None) -> Any:
    """A session on the CPU, the same sums on every machine; `optimised` is where to write what becomes of the graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
