"""Rounds a tensor to eight bits on its way through a net that trains, so that the net learns to bear it."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

# How much each batch moves the range of activations (Jacob et al., arXiv:1712.05877, section 3.1).
_MOMENTUM = 0.01
# Of the widest channel's step: a channel that is all but zero would else want a step so fine that its bias, kept in
# 32 bits of input step times weight step, overflows.
_FINEST = 1e-3
_LOWEST_STEP = 2.0**-24


def rounding_of_activations(fixed: tuple[float, int] | None = None) -> nn.Module:
    """int8 with a zero point, for the range that was seen; `fixed` is a step and zero point that a kernel demands."""
    module: nn.Module = _rounding()(None, fixed)
    return module


def rounding_of_weights() -> nn.Module:
    """int8 from -127 to 127 without a zero point, one step for each output channel, axis 0."""
    module: nn.Module = _rounding()(0, None)
    return module


@functools.cache
def _rounding() -> Any:
    import torch
    from torch import nn

    class Rounding(nn.Module):
        """Rounds to `scale * (level - zero_point)`; the gradient passes as if it had not been rounded.

        `mode` is "watch" (only see the range), "learn" (follow the range and round) or "keep" (round alone).
        """

        scale: torch.Tensor
        zero_point: torch.Tensor

        def __init__(self, axis: int | None, fixed: tuple[float, int] | None) -> None:
            super().__init__()
            self.axis, self.fixed, self.mode = axis, fixed is not None, "watch"
            scale, zero_point = fixed or (1.0, 0)
            self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
            self.register_buffer("zero_point", torch.tensor(zero_point, dtype=torch.int32))
            self.range: tuple[float, float] | None = None

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            if self.axis is not None:
                self._fit_channels(values.detach())
                return torch.fake_quantize_per_channel_affine(values, self.scale, self.zero_point, 0, -127, 127)
            if self.mode != "keep" and not self.fixed:
                self._follow(values.detach())
            if self.mode == "watch":
                return values
            return torch.fake_quantize_per_tensor_affine(values, self.scale, self.zero_point, -128, 127)

        def _fit_channels(self, weights: torch.Tensor) -> None:
            step = weights.abs().flatten(1).amax(dim=1) / 127
            self.scale = step.clamp(min=max(_FINEST * float(step.max()), _LOWEST_STEP))
            self.zero_point = torch.zeros_like(self.scale, dtype=torch.int32)

        def _follow(self, values: torch.Tensor) -> None:
            low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)  # zero must be exact: padding
            if self.range is not None:
                before_low, before_high = self.range
                if self.mode == "watch":
                    low, high = min(low, before_low), max(high, before_high)
                else:
                    low = before_low + _MOMENTUM * (low - before_low)
                    high = before_high + _MOMENTUM * (high - before_high)
            self.range = low, high
            if not math.isfinite(high - low):
                return
            self.scale = torch.tensor(max((high - low) / 255, _LOWEST_STEP), dtype=torch.float32)
            zero_point = -128 - round(low / float(self.scale))
            self.zero_point = torch.tensor(min(max(zero_point, -128), 127), dtype=torch.int32)

    return Rounding
