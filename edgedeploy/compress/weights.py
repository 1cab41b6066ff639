"""What counts as a net's weights for the passes that touch them one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def weights(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, int]]:
    """Name, matrix or kernel, and axis of the output channels, of each convolution, linear, recurrent, attention layer.

    Biases and normalisation are left out; two names of one tied tensor are one weight.
    """
    from torch import nn
    from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

    seen = set()
    for prefix, module in model.named_modules():
        if not isinstance(module, (_ConvNd, nn.Linear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)):
            continue
        axis = 1 if isinstance(module, _ConvTransposeNd) else 0
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim >= 2 and id(parameter) not in seen:
                seen.add(id(parameter))
                yield f"{prefix}.{name}" if prefix else name, parameter, axis
