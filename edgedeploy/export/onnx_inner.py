"""Looks at tensors inside an ONNX file while onnxruntime runs it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from edgedeploy.errors import ExportError
from edgedeploy.export.shared import tensor_names
from edgedeploy.onnx_session import open_session, translated
from edgedeploy.quiet import quiet
from edgedeploy.task import Arrays


@contextmanager
def told(doing: str) -> Iterator[None]:
    """Turn what onnxruntime raises while `doing` something into an ExportError of one sentence."""

    def cannot(error: Exception) -> ExportError:
        return ExportError(f"onnxruntime cannot {doing}: {str(error).strip().splitlines()[0]}")

    with quiet(), translated(cannot):
        yield


def tracer(content: bytes, names: Collection[str]) -> Callable[[Arrays], dict[str, np.ndarray]]:
    """What runs the file on inputs and gives the tensors of these names that are there, in real values.

    Where a tensor is rounded to integers, it is what came back from them. The runtime fuses no operator over a tensor
    that is asked for. Raises ExportError where the file does not run.
    """
    import onnx

    proto = onnx.load_from_string(content)
    made = {name for node in proto.graph.node for name in node.output}
    seen = {name: _rounded(proto.graph, name) for name in names if name in made}
    there = {value.name for value in proto.graph.output}
    proto.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in dict.fromkeys(seen.values()) if name not in there
    )
    inputs = tensor_names("input", len(proto.graph.input))
    with told("open the file with its tensors laid open"):
        session = open_session(proto.SerializeToString())

    def run(arrays: Arrays) -> dict[str, np.ndarray]:
        wanted = list(dict.fromkeys(seen.values()))
        found = dict(zip(wanted, session.run(wanted, dict(zip(inputs, arrays, strict=True))), strict=True))
        return {name: np.asarray(found[visible]) for name, visible in seen.items()}

    return run


def _rounded(graph: Any, name: str) -> str:
    """The tensor behind the Q and DQ that follow this one, or itself."""
    for end in ("QuantizeLinear", "DequantizeLinear"):
        following = next((node for node in graph.node if node.op_type == end and node.input[0] == name), None)
        if following is None:
            return name
        name = following.output[0]
    return name
