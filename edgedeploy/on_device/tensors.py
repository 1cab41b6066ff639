"""Between what a caller means and what a file stores: quantise and dequantise as the contract says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def to_file(array: np.ndarray[Any, Any], tensor: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Return real-valued `array` as the file wants it: quantised where the contract has a scale."""
    import numpy as np

    stored = np.dtype(tensor["type"])
    if tensor.get("scale") is None:
        return np.ascontiguousarray(array, dtype=stored)
    limits = np.iinfo(stored)
    steps = np.rint(np.asarray(array, np.float64) / tensor["scale"]) + (tensor.get("zero_point") or 0)
    return np.ascontiguousarray(np.clip(steps, limits.min, limits.max).astype(stored))


def from_file(array: np.ndarray[Any, Any], tensor: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Return the file's `array` as the caller knows it: dequantised where the contract has a scale."""
    import numpy as np

    real = np.dtype(tensor.get("real_type") or tensor["type"])
    if tensor.get("scale") is None:
        return np.asarray(array, dtype=real)
    steps = np.asarray(array, np.float64) - (tensor.get("zero_point") or 0)
    return np.asarray(steps * tensor["scale"], dtype=real)


def static_batch(contract: dict[str, Any]) -> int | None:
    """Return how many examples the file takes at once, None where it takes any number."""
    shape = contract["inputs"][0]["shape"]
    return shape[0] if shape else None
