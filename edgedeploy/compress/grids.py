"""The grids that low-bit weights lie on: which one suits a layer's weights, and the point of it next to each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Scheme = Literal["uniform", "binary", "ternary", "fixed-point"]

# Where to begin the search for the step: with few levels it pays to cut off the largest weights.
_SHARES_OF_PEAK = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
_TERNARY_THRESHOLD = 0.7  # of the mean magnitude: Li et al., Ternary Weight Networks, arXiv:1605.04711, section 2.3


class LayerGrid:
    """The grid of one layer's weights while they are trained.

    `bits` counts for "uniform" and "fixed-point", whose levels run from -(2^(bits-1) - 1) to 2^(bits-1) - 1. `axis`
    is that of the channels, each of which has a step of its own, or None for one step. `mask` is False where the
    weight must stay zero.
    """

    def __init__(self, scheme: Scheme, bits: int | None, axis: int | None, mask: torch.Tensor | None) -> None:
        self._scheme, self._axis, self._mask = scheme, axis, mask
        self._most = 2 ** ((bits or 2) - 1) - 1
        self._step: torch.Tensor | None = None

    def nearest(self, weights: torch.Tensor) -> torch.Tensor:
        """The point of the grid for each weight, of the same shape."""
        rows = self._rows(weights)
        keep = None if self._mask is None else self._rows(self._mask)
        if self._scheme == "binary":
            points = _binary(rows, keep)
        elif self._scheme == "ternary":
            points = _ternary(rows, keep)
        elif self._scheme == "fixed-point":
            points = self._fixed_point(rows)
        else:
            points = self._uniform(rows)
        if keep is not None:
            points = points.masked_fill(~keep, 0.0)
        if self._axis is None:
            return points.view_as(weights)
        return points.view(weights.movedim(self._axis, 0).shape).movedim(0, self._axis)

    def _rows(self, weights: torch.Tensor) -> torch.Tensor:
        return weights.reshape(1, -1) if self._axis is None else weights.movedim(self._axis, 0).flatten(1)

    def _uniform(self, rows: torch.Tensor) -> torch.Tensor:
        """Steps follow the weights: given the levels, the step of least squared error is w.q / q.q in each channel.

        Alternating the two is that of Hwang and Sung, Fixed-point feedforward deep neural network design using weights
        +1, 0, and -1, SiPS 2014, carried over from one training step to the next.
        """
        peak = rows.abs().amax(dim=1, keepdim=True)
        if self._step is None:
            self._step = self._best([share * peak / self._most for share in _SHARES_OF_PEAK], rows, dim=1)
        levels = self._levels(rows, self._step)
        overlap, square = (rows * levels).sum(1, keepdim=True), (levels * levels).sum(1, keepdim=True)
        self._step = (overlap / square.clamp(min=1.0)).where(square > 0, self._step)
        return self._levels(rows, self._step) * self._step

    def _fixed_point(self, rows: torch.Tensor) -> torch.Tensor:
        """Integers times 2^-p, p that of the least squared error among those that cut off nothing, or little."""
        import torch

        if self._step is None:
            peak = rows.abs().max().clamp(min=torch.finfo(rows.dtype).tiny)
            finest = torch.exp2(-torch.floor(torch.log2(self._most / peak)))
            self._step = self._best([finest, finest / 2, finest / 4], rows, dim=None)
        return self._levels(rows, self._step) * self._step

    def _levels(self, rows: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        import torch

        safe = step.where(step > 0, torch.ones_like(step))
        return (rows / safe).round().clamp(-self._most, self._most)

    def _best(self, steps: list[torch.Tensor], rows: torch.Tensor, dim: int | None) -> torch.Tensor:
        """The one of the steps with the least squared error, in each row or over all."""
        import torch

        errors = torch.stack([((self._levels(rows, step) * step - rows) ** 2).sum(dim) for step in steps])
        chosen = errors.argmin(dim=0)
        return torch.stack([step.reshape(-1) for step in steps]).gather(0, chosen.reshape(1, -1)).reshape(-1, 1)


def _binary(rows: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    """sign(w) * mean|w|: Rastegari et al., XNOR-Net, arXiv:1603.05279, equation 6."""
    import torch

    count = torch.full_like(rows[:, :1], rows.shape[1]) if keep is None else keep.sum(1, keepdim=True).clamp(min=1)
    step = rows.abs().sum(1, keepdim=True) / count
    return step.where(rows >= 0, -step)


def _ternary(rows: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    """Zero up to a threshold, beyond it the sign times the mean magnitude there: Li et al., arXiv:1605.04711."""
    magnitude = rows.abs()
    count = rows.shape[1] if keep is None else keep.sum(1, keepdim=True).clamp(min=1)
    beyond = magnitude > _TERNARY_THRESHOLD * magnitude.sum(1, keepdim=True) / count
    step = (magnitude * beyond).sum(1, keepdim=True) / beyond.sum(1, keepdim=True).clamp(min=1)
    return rows.sign() * beyond * step
