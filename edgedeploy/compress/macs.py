"""How much a net computes for one example, counted from the operators that run rather than from its layers' names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn


def count_macs(model: nn.Module, example_inputs: Sequence[np.ndarray | torch.Tensor]) -> int:
    """Multiply-accumulates for one example: those of a forward pass, divided by the inputs' first axis, the batch.

    Counted are convolutions, matrix products, attention and recurrent layers, each output by the length of the sum
    behind it; padding counts like data. Biases, normalisation, activations, pooling and embeddings count 0, and zeros
    among the weights count as much as other weights do. Whatever forward() raises is passed on.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    inputs = tuple(torch.as_tensor(values) for values in example_inputs)
    training = {module: module.training for module in model.modules()}
    counter = FlopCounterMode(display=False, custom_mapping=_of_vectors())
    model.eval()
    try:
        with torch.no_grad(), _no_fused_kernels(), counter:
            model(*inputs)
    finally:
        for module, was in training.items():
            module.training = was
    return counter.get_total_flops() // (2 * len(inputs[0]))


def _of_vectors() -> dict[Any, Any]:
    """Products with a vector, which torch's own table lacks: 2 operations for each number of the larger operand."""
    import torch

    aten = torch.ops.aten

    def plain(first: Sequence[int], *_: Any, **__: Any) -> int:
        return 2 * math.prod(first)

    def added(_: Any, matrix: Sequence[int], *__: Any, **___: Any) -> int:
        return 2 * math.prod(matrix)

    return {aten.mv: plain, aten.dot: plain, aten.addmv: added}


@contextmanager
def _no_fused_kernels() -> Iterator[None]:
    """Let recurrent and attention layers run as the matrix products they consist of: fused, they hide them."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast, onednn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)  # the public switch sets TF32 too, which warns on a CPU
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._set_mkldnn_enabled(onednn)
