"""What `example()` and `data()` return is checked before anything is trained on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy.errors import PlanError
from edgedeploy.task.definition import Arrays, Split

SPLITS = ("train", "calibration", "selection", "test")


def to_arrays(file: Path, what: str, value: Any) -> Arrays:
    """One or several arrays or tensors as a tuple of numpy arrays of equal, non-zero length."""
    given = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not given:
        raise PlanError(f"{file}: {what} is empty; give one array for each input of the net")
    arrays = tuple(to_array(file, f"{what}[{i}]" if len(given) > 1 else what, one) for i, one in enumerate(given))
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) > 1:
        raise PlanError(f"{file}: the arrays of {what} differ in length: {', '.join(map(str, lengths))}")
    return arrays


def to_array(file: Path, what: str, value: Any) -> np.ndarray:
    """One array or tensor as a contiguous numpy array that has examples, and numbers only."""
    array = value
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        try:
            array = value.detach().cpu().numpy()
        except TypeError as error:
            raise PlanError(f"{file}: {what} is a tensor of {value.dtype}, which numpy cannot hold") from error
    if not isinstance(array, np.ndarray):
        raise PlanError(f"{file}: {what} is a {type(value).__name__}; give a numpy array or a torch tensor")
    if array.dtype.kind not in "fiub":
        raise PlanError(f"{file}: {what} has dtype {array.dtype}; give floats, integers or booleans")
    if array.ndim == 0 or len(array) == 0:
        raise PlanError(f"{file}: {what} holds no example; its first axis counts the examples")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise PlanError(f"{file}: {what} holds NaN or infinity; clean the data before it reaches the net")
    # Torch takes neither foreign byte orders nor, without a warning, arrays it may not write to.
    return np.require(array, array.dtype.newbyteorder("="), ["C_CONTIGUOUS", "WRITEABLE"])


def to_splits(file: Path, value: Any, example: Arrays) -> dict[str, Split]:
    """The four splits of `data()`, each of whose inputs look like the example's."""
    if not isinstance(value, Mapping):
        raise PlanError(f"{file}: data() returned a {type(value).__name__}; return a dict of {', '.join(SPLITS)}")
    missing = [name for name in SPLITS if name not in value]
    unknown = [str(name) for name in value if name not in SPLITS]
    if missing or unknown:
        found = f"; {', '.join(unknown)} is not known" if unknown else ""
        lacks = f"lacks {', '.join(missing)}" if missing else "has too many keys"
        raise PlanError(f"{file}: data() {lacks}{found}; its keys are {', '.join(SPLITS)}")
    return {name: _split(file, f"data()[{name!r}]", value[name], example) for name in SPLITS}


def _split(file: Path, what: str, value: Any, example: Arrays) -> Split:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise PlanError(f"{file}: {what} must be a pair (inputs, targets)")
    inputs = to_arrays(file, f"inputs of {what}", value[0])
    targets = to_array(file, f"targets of {what}", value[1])
    if len(inputs[0]) != len(targets):
        raise PlanError(f"{file}: {what} has {len(inputs[0])} inputs but {len(targets)} targets")
    if len(inputs) != len(example):
        raise PlanError(f"{file}: {what} has {len(inputs)} input arrays where example() has {len(example)}")
    for i, (array, like) in enumerate(zip(inputs, example, strict=True)):
        if array.shape[1:] != like.shape[1:]:
            raise PlanError(
                f"{file}: input {i} of {what} has examples of shape {array.shape[1:]}, example() of {like.shape[1:]}"
            )
        if array.dtype != like.dtype:
            raise PlanError(f"{file}: input {i} of {what} is {array.dtype}, that of example() is {like.dtype}")
    return Split(inputs, targets)
