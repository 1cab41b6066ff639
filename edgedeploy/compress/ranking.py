"""Which weights go once their importance is known: exact counts, ties broken by place, whole blocks where asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from edgedeploy.compress.held import masks_of
from edgedeploy.compress.weights import chosen_weights
from edgedeploy.errors import CompressionError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgedeploy.compress.importance import Scores

Scope = Literal["global", "layer"]


def input_axes(kind: str, model: nn.Module, only: Sequence[str], skip: Sequence[str]) -> dict[str, int]:
    """Name of each weight to prune -> the axis of its inputs. Raises CompressionError where there is none."""
    found = chosen_weights(kind, model, only, skip, "to prune")
    return {name: 0 if axis == 1 else 1 for name, axis in found.items()}


class Blocks:
    """The scores of one parameter, in blocks of `size` weights along its axis of inputs.

    `scores` holds the mean over each block, minus infinity where all of it is held at zero already, so that these go
    first; the last block of a row is shorter where the inputs do not divide. `sizes` holds the number of weights, and
    `inputs` is how many the parameter has along that axis.
    """

    def __init__(self, scores: torch.Tensor, axis: int, size: int, mask: torch.Tensor | None) -> None:
        import torch

        self._axis, self._size, self.inputs = axis, size, scores.shape[axis]
        there = torch.ones_like(scores, dtype=torch.bool)
        left = there if mask is None else mask
        self.sizes = self._split(there).sum(-1)
        means = self._split(scores.masked_fill(~left, 0.0)).sum(-1) / self.sizes
        self.scores = means.masked_fill(~self._split(left).any(-1), -torch.inf)

    def spread(self, keep: torch.Tensor) -> torch.Tensor:
        """A boolean for each block as one for each weight, of the parameter's shape."""
        rows = keep.repeat_interleave(self._size, dim=-1)[..., : self.inputs]
        return rows.movedim(-1, self._axis).contiguous()

    def _split(self, values: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional as F

        rows = values.movedim(self._axis, -1)
        padded = F.pad(rows, (0, -self.inputs % self._size))
        return padded.reshape(*padded.shape[:-1], -1, self._size)


def blocks_of(model: nn.Module, scores: Scores, axes: Mapping[str, int], size: int = 1) -> dict[str, Blocks]:
    """The scores in blocks; what is held at zero comes first."""
    masks = masks_of(model)
    return {name: Blocks(score, axes[name], size, masks.get(name)) for name, score in scores.items()}


def masks_by_share(blocks: Mapping[str, Blocks], share: float, scope: Scope) -> dict[str, torch.Tensor]:
    """Masks that let go of the share of the weights with the lowest scores, those held at zero included.

    "global" ranks over all parameters, "layer" in each by itself. The number of weights that go is the share, rounded,
    or the number next to it that whole blocks allow.
    """
    import torch

    if scope == "layer":
        return {name: one.spread(_all_but(one.scores, one.sizes, share)) for name, one in blocks.items()}
    if not blocks:
        return {}
    keep = _all_but(
        torch.cat([one.scores.flatten() for one in blocks.values()]),
        torch.cat([one.sizes.flatten() for one in blocks.values()]),
        share,
    )
    parts = torch.split(keep, [one.scores.numel() for one in blocks.values()])
    return {name: one.spread(part.view_as(one.scores)) for (name, one), part in zip(blocks.items(), parts, strict=True)}


def masks_by_pattern(blocks: Mapping[str, Blocks], keep: int, of: int) -> dict[str, torch.Tensor]:
    """Masks that let `keep` of each `of` neighbours along the inputs stay; layers that do not divide get none.

    The blocks are to be single weights.
    """
    import torch

    masks = {}
    for name, one in blocks.items():
        if one.scores.shape[-1] % of:
            continue
        groups = one.scores.reshape(*one.scores.shape[:-1], -1, of)
        order = torch.argsort(groups, dim=-1, stable=True)
        kept = torch.ones_like(groups, dtype=torch.bool).scatter(-1, order[..., : of - keep], value=False)
        masks[name] = one.spread(kept.flatten(-2))
    return masks


def refuse_empty(kind: str, asked: str, model: nn.Module, masks: Mapping[str, torch.Tensor]) -> None:
    """Raise CompressionError that names the first parameter of which the masks, with those held, leave nothing."""
    held = masks_of(model)
    for name, mask in masks.items():
        left = mask & held[name] if name in held else mask
        if not left.any():
            raise CompressionError(f"{kind}: {asked} leaves no weight at all in {name}; lower it, or skip the layer")


def _all_but(scores: torch.Tensor, sizes: torch.Tensor, share: float) -> torch.Tensor:
    import torch

    # By rank, not by threshold: equal scores would otherwise all go or all stay.
    order = torch.argsort(scores.flatten(), stable=True)
    ranked = sizes.flatten()[order]
    wanted = round(share * int(sizes.sum()))
    keep = torch.ones(len(order), dtype=torch.bool)
    keep[order[2 * ranked.cumsum(0) - ranked <= 2 * wanted]] = False
    return keep.view_as(scores)
