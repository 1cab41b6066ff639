"""What must hold of a net after every pass, whatever the pass did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgedeploy.errors import CompressionError
from edgedeploy.task import Arrays, predict

if TYPE_CHECKING:
    from torch import nn


def checked_outputs(
    what: str, model: nn.Module, example: Arrays, shapes: Sequence[tuple[int, ...]] | None = None
) -> Arrays:
    """The outputs on the example. Raises CompressionError, led by `what`, unless finite and of these shapes."""
    try:
        outputs = predict(model, example)
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
        message = " ".join(str(error).split())[:300]
        raise CompressionError(
            f"{what}: the forward pass no longer runs ({type(error).__name__}: {message}); "
            "take sizes in forward() from the tensors, not from constants, or leave this pass out"
        ) from error
    found = [output.shape for output in outputs]
    if shapes is not None and found != list(shapes):
        raise CompressionError(f"{what}: the outputs changed shape from {list(shapes)} to {found}; leave this pass out")
    if not all(np.isfinite(output).all() for output in outputs):
        raise CompressionError(f"{what}: the outputs on the example hold NaN or infinity afterwards")
    return outputs
