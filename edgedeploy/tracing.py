"""What stands between a net and its trace for reasons of torch's own is put right here, for passes and exporters."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedeploy.quiet import quiet

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.export import ExportedProgram

# What tracing and converting are seen to raise; each is a compiler, with no exception of its own for "cannot".
COMPILER_ERRORS = (RuntimeError, TypeError, ValueError, AssertionError, AttributeError, LookupError)


def sample(example: Sequence[np.ndarray], batch: int) -> tuple[torch.Tensor, ...]:
    """The example inputs as tensors, repeated or cut to `batch` examples."""
    import torch

    return tuple(torch.from_numpy(np.resize(array, (batch, *array.shape[1:]))) for array in example)


def trace(model: nn.Module, inputs: tuple[torch.Tensor, ...], *, dynamic_batch: bool) -> ExportedProgram:
    """The net as a graph, its batch free or as the inputs have it. Raises one of COMPILER_ERRORS."""
    import torch

    shapes = _free_first_axes(model, len(inputs)) if dynamic_batch else None
    with quiet(), exportable():
        return torch.export.export(model, inputs, dynamic_shapes=shapes, strict=False)


def _free_first_axes(model: nn.Module, inputs: int) -> tuple[Any, ...]:
    """What says that the first axis of every input is one free batch, in the form of forward()'s parameters."""
    import torch

    axes = [{0: torch.export.Dim("batch", min=1)} for _ in range(inputs)]
    parameters = inspect.signature(model.forward).parameters.values()
    named = next((i for i, p in enumerate(parameters) if p.kind is p.VAR_POSITIONAL), inputs)
    return (*axes[:named], tuple(axes[named:])) if named < inputs else tuple(axes)


@contextmanager
def exportable() -> Iterator[None]:
    """While a net is traced, let torch compute the same numbers in a way that can be exported."""
    import torch
    from torch.nn import functional as F
    from torch.nn.modules import transformer
    from torch.overrides import TorchFunctionMode

    class Exportable(TorchFunctionMode):
        """Attention without a heads' axis, which the ONNX exporter does not know, gets one of size one."""

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = dict(kwargs or {})
            if function is not F.scaled_dot_product_attention or len(args) < 3 or any(a.ndim != 3 for a in args[:3]):
                return function(*args, **kwargs)
            query, key, value, *rest = args
            mask = rest.pop(0) if rest else kwargs.pop("attn_mask", None)
            if isinstance(mask, torch.Tensor) and mask.ndim == 3:
                mask = mask.unsqueeze(1)
            query, key, value = (one.unsqueeze(1) for one in (query, key, value))
            return function(query, key, value, mask, *rest, **kwargs).squeeze(1)

    # It looks into the mask for whether it is causal, which no trace can; the mask is applied all the same.
    detect = transformer._detect_is_causal_mask
    transformer._detect_is_causal_mask = _as_told
    try:
        with Exportable():
            yield
    finally:
        transformer._detect_is_causal_mask = detect


def _as_told(mask: torch.Tensor | None, is_causal: bool | None = None, size: int | None = None) -> bool:  # noqa: ARG001
    return is_causal is True
