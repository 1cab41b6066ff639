"""The float file is run on the calibration split with its inner tensors as outputs, to see what values they take."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy.export.calibration import Observed, Range, ranges_of
from edgedeploy.export.onnx_inner import told
from edgedeploy.export.shared import tensor_names
from edgedeploy.onnx_session import open_session
from edgedeploy.records import Calibration
from edgedeploy.task import Task

# Of inner tensors held at once.
_HELD_BYTES = 64 * 2**20
_MOST_AT_ONCE = 64


def activation_ranges(
    source: Path, wanted: Collection[str], task: Task, calibration: Calibration, levels: int
) -> Mapping[str, Range]:
    """The ranges of those float tensors of a file that are `wanted`. Raises ExportError."""
    return ranges_of(source, calibration, levels, lambda: _observe(source, wanted, task, calibration))


def _observe(
    source: Path, wanted: Collection[str], task: Task, calibration: Calibration
) -> Iterator[tuple[str, Observed]]:
    import onnx

    proto = onnx.load(source)
    names = [name for name in _float_tensors(proto) if name in wanted]
    entries = {value.name for value in proto.graph.input}
    given = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in entries | given)
    doing = "run the float file on the calibration split"
    with told(doing):
        session = open_session(proto.SerializeToString())
    observed = {name: Observed(name, calibration) for name in names}
    examples = task.calibration.spread(calibration.examples)
    inputs = dict(zip(tensor_names("input", len(examples)), examples, strict=True))
    inner = [name for name in names if name not in entries]
    total = len(next(iter(inputs.values())))
    fixed = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    start, size = 0, fixed or 1  # the first shows how large the others may be
    while start < total:
        batch = {name: array[start : start + size] for name, array in inputs.items()}
        if fixed:  # an example twice changes no range
            batch = {name: np.resize(array, (fixed, *array.shape[1:])) for name, array in batch.items()}
        with told(doing):
            values = dict(zip(inner, session.run(inner, batch), strict=True))
        for name, one in observed.items():
            one.see(batch[name] if name in entries else values[name])
        start += size
        if start == 1 and not fixed:
            held = sum(array.nbytes for array in values.values())
            size = int(np.clip(_HELD_BYTES // max(held, 1), 1, _MOST_AT_ONCE))
    yield from observed.items()


def _float_tensors(proto: Any) -> list[str]:
    import onnx

    graph = onnx.shape_inference.infer_shapes(proto).graph
    return [
        value.name
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    ]
