"""Unstructured pruning: the smallest weights become zero, which shows in the archive and on the wire, not in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgedeploy.compress.held import hold, masks_of
from edgedeploy.compress.weights import weights as layer_weights
from edgedeploy.errors import CompressionError

if TYPE_CHECKING:
    from torch import nn

    from edgedeploy.task import Task


@dataclass(frozen=True, slots=True)
class PruneMagnitude:
    """Zero the share `sparsity` of all weights of convolutions, linear and recurrent layers: the smallest, over all.

    Biases and normalisation are left alone. A later fine-tune keeps the zeros.
    """

    kind: ClassVar[str] = "prune-magnitude"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch",)

    sparsity: float

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1:
            raise ValueError(f"sparsity is {self.sparsity}; it must lie between 0 and 1, both excluded")

    def apply(self, model: nn.Module, task: Task) -> nn.Module:  # noqa: ARG002 - the weights tell all
        """Zero the weights in place and hold them there. Raises CompressionError."""
        import torch

        weights = {name: weight for name, weight, _ in layer_weights(model)}
        if not weights:
            raise CompressionError(f"{self.kind}: the net has no convolution, linear or recurrent layer to prune")
        magnitudes = torch.cat([weight.detach().abs().flatten() for weight in weights.values()])
        count = round(self.sparsity * len(magnitudes))
        keep = torch.ones(len(magnitudes), dtype=torch.bool)
        # By rank, not by threshold: equal magnitudes would otherwise all go or all stay.
        keep[torch.argsort(magnitudes, stable=True)[:count]] = False
        parts = torch.split(keep, [weight.numel() for weight in weights.values()])
        masks = {name: part.view_as(weights[name]) for name, part in zip(weights, parts, strict=True)}
        empty = next((name for name, mask in masks.items() if not mask.any()), None)
        if empty is not None:
            raise CompressionError(
                f"{self.kind}: sparsity {self.sparsity} leaves no weight at all in {empty}; lower the sparsity"
            )
        hold(model, masks)
        zeros = sum(int((weight == 0).sum()) for weight in weights.values())
        assert zeros >= count, f"{zeros} zeros where {count} were made"
        assert all(masks_of(model)[name].shape == weight.shape for name, weight in weights.items())
        return model
