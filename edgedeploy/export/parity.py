"""An exported file must compute what the source net computes; how far it may stray depends on its precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy.errors import ParityError
from edgedeploy.exported_file import run_exported
from edgedeploy.records import Parity, Precision, Target
from edgedeploy.task import Arrays, Task

EXAMPLES = 64

# Measured 3e-3 to 5e-2 in eight bits, up to .15 in four. A wrong scale, order or layout gives 1 or more. Whether the
# loss in between can be borne is for the metric to say: these limits only tell a coarse file from a broken one.
_COARSE = 0.2
_COARSER = 0.4

TOLERANCE = {
    # Another order of summation: measured 1e-7 on small nets; a hundred layers deep it stays under 1e-4.
    Precision.FP32: 1e-4,
    # A half has 11 bits: 5e-4 a rounding; measured 4e-4, and depth adds up.
    Precision.FP16: 1e-2,
    Precision.W8: _COARSE,
    Precision.W4: _COARSER,
    Precision.INT8_DYNAMIC: _COARSE,
    Precision.INT8: _COARSE,
    Precision.INT16X8: _COARSE,
}

_CALIBRATE = "look whether the calibration split covers the range of the inputs, or take fp16"
_FINER = "take a precision with more bits"
_MEND = {
    Precision.FP32: "look for what depends on the other examples of a batch, on chance, or on earlier calls",
    Precision.FP16: "look for values beyond 65504, or take fp32",
    Precision.W8: _FINER,
    Precision.W4: _FINER,
    Precision.INT8_DYNAMIC: _FINER,
    Precision.INT8: _CALIBRATE,
    Precision.INT16X8: _CALIBRATE,
}


def compare(path: Path, contract: Mapping[str, Any], target: Target, task: Task, reference: Arrays) -> Parity:
    """Hold the file's outputs on the first examples of the selection split against the net's, `reference`.

    Raises ParityError where they stray by more than the precision's tolerance or are not finite, ExportError
    where the file does not run.
    """
    count = len(reference[0])
    inputs = tuple(array[:count] for array in task.selection.inputs)
    outputs = run_exported(path, contract, inputs, _batch_sizes())
    tolerance = TOLERANCE[target.precision]
    largest, relative = 0.0, 0.0
    for tensor, output, source in zip(contract["outputs"], outputs, reference, strict=True):
        if output.shape != source.shape:
            raise ParityError(
                f"{target}: {tensor['name']} has shape {output.shape} for {count} examples, "
                f"the net's has {source.shape}; the file has a frozen batch axis"
            )
        if not np.isfinite(output).all():
            raise ParityError(f"{target}: {tensor['name']} of the exported file holds NaN or infinity, the net's not")
        largest = max(largest, float(np.abs(output.astype(np.float64) - source).max()))
        relative = max(relative, relative_rms_error(output, source))
    if relative > tolerance:
        raise ParityError(
            f"{target}: the exported file strays from the net by a relative error of {relative:.2g}, "
            f"where {tolerance:g} is allowed; {_MEND[target.precision]}"
        )
    return Parity(max_abs_error=largest, relative_rms_error=relative, tolerance=tolerance, examples=count)


def relative_rms_error(output: np.ndarray, source: np.ndarray) -> float:
    """rms(output - source) / rms(source); for integers, whose distance means nothing, the share that differs."""
    if not np.issubdtype(source.dtype, np.floating):
        return float((output != source).mean())
    exact = source.astype(np.float64)
    error, scale = np.sqrt(np.mean((output - exact) ** 2)), np.sqrt(np.mean(exact**2))
    if error == 0.0:
        return 0.0
    return float(error / scale) if scale > 0.0 else float("inf")


def _batch_sizes() -> Iterator[int]:
    # Different ones, so that a batch axis frozen at any size shows.
    return chain((1, 2, 5), repeat(EXAMPLES))
