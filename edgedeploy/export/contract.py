"""What a caller must know to feed an exported file and to read it, taken from the file itself."""

from __future__ import annotations

from typing import Any

from edgedeploy.errors import ExportError
from edgedeploy.records import Target
from edgedeploy.task import Arrays, Task

Tensor = dict[str, Any]


def build_contract(
    target: Target, inputs: list[Tensor], outputs: list[Tensor], task: Task, reference: Arrays
) -> dict[str, Any]:
    """The contract as a JSON document; `reference` is what the source net gives for some examples.

    A tensor has `name`, `shape` (None for a free batch axis), `type` in the file, `scale` and `zero_point` where
    it is quantised, and `real_type`, what the caller feeds or gets. Raises ExportError where the file's tensors
    are not those of the net, in number, order or shape.
    """
    batch = target.static_batch
    return {
        "schema": 1,
        "format": target.format.value,
        "precision": target.precision.value,
        "inputs": _tensors("input", inputs, task.example, batch),
        "outputs": _tensors("output", outputs, reference, batch),
        "layout": task.layout,
        "preprocessing": task.preprocessing,
        "labels": list(task.labels),
    }


def _tensors(kind: str, tensors: list[Tensor], arrays: Arrays, batch: int | None) -> list[Tensor]:
    if len(tensors) != len(arrays):
        raise ExportError(
            f"the net has {len(arrays)} {kind}s, the exported file {len(tensors)}; "
            f"the exporter drops an {kind} that is not used or stands twice"
        )
    described = []
    for tensor, array in zip(tensors, arrays, strict=True):
        shape = list(tensor["shape"])
        # An exporter may leave a size open that the graph itself settles.
        settled = shape[:1] + [size or known for size, known in zip(shape[1:], array.shape[1:], strict=False)]
        if len(shape) != array.ndim or settled[1:] != list(array.shape[1:]):
            raise ExportError(
                f"{tensor['name']} of the exported file has shape {shape}, "
                f"but an example of it in the net has {list(array.shape[1:])}"
            )
        if shape[0] != batch:
            raise ExportError(
                f"{tensor['name']} of the exported file has a batch axis of {shape[0] or 'any size'}, "
                f"not of {batch or 'any size'}; take sizes from the input's shape, not from constants, "
                f"or ask for `batch = {shape[0]}` in the recipe"
            )
        described.append({**tensor, "shape": settled, "real_type": array.dtype.name})
    return described
