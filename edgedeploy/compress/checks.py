"""What must hold of a net after every pass, whatever the pass did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgedeploy.errors import CompressionError
from edgedeploy.task import Arrays, predict

if TYPE_CHECKING:
    import torch
    from torch import nn

# Of the largest output: sums of other lengths, taken in another order, stay a hundred times below.
_ROUNDING = 1e-4


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


def check_computes(
    what: str, model: nn.Module, reference: nn.Module, inputs: tuple[torch.Tensor, ...], than: str, mend: str
) -> None:
    """Raises CompressionError, led by `what`, unless `model` gives the same outputs as `reference` but for rounding.

    The message says "than" what else it computes, and how to `mend` that, or what keeps it from running at all.
    """
    import torch
    from torch.utils._pytree import tree_leaves

    with torch.no_grad():
        try:
            found = tree_leaves(model(*inputs))
        except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
            message = " ".join(str(error).split())[:300]
            raise CompressionError(
                f"{what}: the net no longer runs ({type(error).__name__}: {message}); {mend}"
            ) from error
        expected = tree_leaves(reference(*inputs))
    for one, other in zip(found, expected, strict=True):
        limit = _ROUNDING * max(float(other.abs().max()), 1e-6)
        if one.shape != other.shape or not bool(((one - other).abs() <= limit).all()):
            raise CompressionError(f"{what}: the net computes something else than {than}; {mend}")
