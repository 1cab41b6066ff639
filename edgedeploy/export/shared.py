"""What the formats have in common: names of tensors, examples to calibrate on, what is said of a size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgedeploy.records import Calibration, OperatorUse
from edgedeploy.task import Arrays, Task


@dataclass(frozen=True, slots=True)
class Written:
    """What is worth knowing about a file that was just written: notes for the user, and what its operators became."""

    notes: tuple[str, ...] = ()
    operators: tuple[OperatorUse, ...] = ()


def tensor_names(kind: str, count: int) -> list[str]:
    """`input` for one, `input_0`, `input_1`, ... for several."""
    return [kind] if count == 1 else [f"{kind}_{index}" for index in range(count)]


def calibration_examples(task: Task, calibration: Calibration, batch: int = 1) -> list[Arrays]:
    """As many examples of the calibration split as asked for, evenly spread.

    Each with a batch axis of one, or `batch` times over, which changes no range, for a file that takes so many.
    """
    total = len(task.calibration)
    chosen = np.unique(np.linspace(0, total - 1, min(total, calibration.examples)).astype(int))
    return [tuple(np.repeat(array[i : i + 1], batch, axis=0) for array in task.calibration.inputs) for i in chosen]


def size_note(int8_bytes: int, float_bytes: int) -> tuple[str, ...]:
    """One note where int8 saves less than a twentieth of the float file, as it does when recurrence stays in float."""
    if int8_bytes < 0.95 * float_bytes:
        return ()
    return (f"int8 saves hardly any space: {int8_bytes:,} bytes, {float_bytes:,} as fp32",)
