"""Tensors bear the same names in every format, and calibration sees the same examples."""

from __future__ import annotations

import numpy as np

from edgedeploy.task import Arrays, Task

# Ranges settle early (Krishnamoorthi, arXiv:1806.08342, finds 100 batches enough), and every tensor of an
# unrolled recurrent net is read back for each example.
_CALIBRATION_EXAMPLES = 128


def tensor_names(kind: str, count: int) -> list[str]:
    """`input` for one, `input_0`, `input_1`, ... for several."""
    return [kind] if count == 1 else [f"{kind}_{index}" for index in range(count)]


def calibration_examples(task: Task) -> list[Arrays]:
    """Up to 128 examples of the calibration split, evenly spread, each with a batch axis of one."""
    total = len(task.calibration)
    chosen = np.unique(np.linspace(0, total - 1, min(total, _CALIBRATION_EXAMPLES)).astype(int))
    return [tuple(array[i : i + 1] for array in task.calibration.inputs) for i in chosen]
