"""Which weights must stay zero, kept with the net so that no later pass brings them back unawares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgedeploy.errors import CompressionError

if TYPE_CHECKING:
    import torch
    from torch import nn

# A plain attribute: it is copied with the net, yet is in no state dict and in no exported graph.
_ATTRIBUTE = "_edgedeploy_masks"


def masks_of(model: nn.Module) -> Mapping[str, torch.Tensor]:
    """Parameter name -> boolean tensor of its shape, False where the weight must stay zero."""
    masks: Mapping[str, torch.Tensor] = getattr(model, _ATTRIBUTE, {})
    return masks


def hold(model: nn.Module, masks: Mapping[str, torch.Tensor]) -> None:
    """Zero what the masks forbid, now and at each later `enforce`; earlier masks stay in force."""
    held = masks_of(model)
    together = {name: mask & held[name] if name in held else mask for name, mask in masks.items()}
    setattr(model, _ATTRIBUTE, {**held, **together})
    enforce(model)


def enforce(model: nn.Module) -> None:
    """Set to zero again what an optimiser step has moved."""
    import torch

    with torch.no_grad():
        for name, mask in masks_of(model).items():
            model.get_parameter(name).masked_fill_(~mask, 0.0)  # a product would leave negative zeros


def finalise(model: nn.Module) -> None:
    """Make the zeros permanent and forget the masks, as the last step before export.

    Raises CompressionError when a pass has brought forbidden weights back or changed their shape.
    """
    for name, mask in masks_of(model).items():
        parameter = model.get_parameter(name)
        if parameter.shape != mask.shape or bool((parameter.detach()[~mask] != 0).any()):
            raise CompressionError(
                f"a later pass lost the zeros that prune-magnitude put into {name}; run prune-magnitude last"
            )
    if masks_of(model):
        delattr(model, _ATTRIBUTE)
