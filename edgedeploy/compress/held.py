"""What later passes must not undo, kept with the net: which weights stay zero, and which share one value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgedeploy.errors import CompressionError

if TYPE_CHECKING:
    import torch
    from torch import nn

# Plain attributes: they are copied with the net, yet are in no state dict and in no exported graph.
_MASKS = "_edgedeploy_masks"
_SHARED = "_edgedeploy_shared"
_VALUES = "_edgedeploy_values"  # what the numbers of _SHARED stand for


def masks_of(model: nn.Module) -> Mapping[str, torch.Tensor]:
    """Parameter name -> boolean tensor of its shape, False where the weight must stay zero."""
    masks: Mapping[str, torch.Tensor] = getattr(model, _MASKS, {})
    return masks


def shared_of(model: nn.Module) -> Mapping[str, torch.Tensor]:
    """Parameter name -> integer tensor of its shape: weights of one number share one value, -1 stands alone.

    Numbers count over the whole net, so that weights of several parameters may share a value.
    """
    shared: Mapping[str, torch.Tensor] = getattr(model, _SHARED, {})
    return shared


def hold(model: nn.Module, masks: Mapping[str, torch.Tensor]) -> None:
    """Zero what the masks forbid, now and at each later `enforce`; earlier masks stay in force."""
    held = masks_of(model)
    together = {name: mask & held[name] if name in held else mask for name, mask in masks.items()}
    setattr(model, _MASKS, {**held, **together})
    setattr(model, _SHARED, _without_zeros(shared_of(model), together))
    enforce(model)


def share(model: nn.Module, labels: Mapping[str, torch.Tensor], *, across: bool = False) -> None:
    """Give weights of one label one value, their mean, now and at each later `enforce`; replaces earlier labels.

    Labels count for each parameter by itself, or over all that are given where `across` says so. The mean of weights
    that each took a step is their common value after one step along the mean gradient, so that training moves the
    centroids (Han et al., Deep Compression, arXiv:1510.00149, section 3.3).
    """
    others = {name: numbers for name, numbers in shared_of(model).items() if name not in labels}
    free = 1 + max((int(numbers.max()) for numbers in others.values()), default=-1)
    numbered = {}
    for name, label in labels.items():
        numbered[name] = label.long().where(label < 0, label.long() + free)
        if not across:
            free = max(free, 1 + int(numbered[name].max()))
    setattr(model, _SHARED, {**others, **_without_zeros(numbered, masks_of(model))})
    enforce(model)


def _without_zeros(labels: Mapping[str, torch.Tensor], masks: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # A zero shares no value with those that stay: their mean would bring it back.
    return {name: label.masked_fill(~masks[name], -1) if name in masks else label for name, label in labels.items()}


def release(model: nn.Module, names: set[str]) -> None:
    """Forget what is held of these parameters, for a pass that gives them back."""
    for attribute in (_MASKS, _SHARED):
        setattr(model, attribute, {n: v for n, v in getattr(model, attribute, {}).items() if n not in names})


def enforce(model: nn.Module) -> None:
    """Set to zero, and to one value, again what an optimiser step has moved."""
    import torch

    with torch.no_grad():
        for name, mask in masks_of(model).items():
            model.get_parameter(name).masked_fill_(~mask, 0.0)  # a product would leave negative zeros
        shared = [(model.get_parameter(name), labels, labels >= 0) for name, labels in shared_of(model).items()]
        if shared:
            numbers = torch.cat([labels[together] for _, labels, together in shared])
            values = torch.cat([parameter.detach()[together].double() for parameter, _, together in shared])
            size = int(numbers.max()) + 1 if len(numbers) else 0
            sums = torch.zeros(size, dtype=torch.float64).index_add_(0, numbers, values)
            means = sums / torch.bincount(numbers, minlength=size).clamp(min=1)
            setattr(model, _VALUES, means)
            for parameter, labels, together in shared:
                parameter[together] = means.to(parameter.dtype)[labels[together]]


def follow(model: nn.Module, before: nn.Module, renamed: Mapping[str, str] | None = None) -> None:
    """Hold in `model`, cut or re-ordered from `before`, what its values show was held there.

    `renamed` maps parameter names of `model` to those of `before` where they differ. Held zeros are the exact zeros
    of a parameter that had a mask; weights of one label are the equal values of one that shared, if it shared them
    before. Names that are gone are forgotten.
    """
    import torch

    renamed = renamed or {}
    masks, shared = masks_of(before), shared_of(before)
    named = {name: parameter.detach() for name, parameter in model.named_parameters()}
    new_masks = {name: weight != 0 for name, weight in named.items() if renamed.get(name, name) in masks}
    new_shared = {}
    for name, weight in named.items():
        if (labels := shared.get(renamed.get(name, name))) is not None:
            numbers = torch.tensor(sorted({-1, *labels.flatten().tolist()}))
            values = torch.cat([torch.zeros(1, dtype=torch.float64), getattr(before, _VALUES)[numbers[1:]]])
            values, order = values.to(weight.dtype).sort(stable=True)
            at = torch.searchsorted(values, weight.contiguous()).clamp(max=len(values) - 1)
            new_shared[name] = numbers[order][at].masked_fill((weight == 0) | (values[at] != weight), -1)
    if shared:
        setattr(model, _VALUES, getattr(before, _VALUES))
    setattr(model, _MASKS, new_masks)
    setattr(model, _SHARED, new_shared)


def finalise(model: nn.Module) -> None:
    """Make what is held permanent and forget that it was, as the last step before export.

    Raises CompressionError when a pass has brought forbidden weights back, moved shared ones apart, or changed shapes.
    """
    for name, mask in masks_of(model).items():
        parameter = model.get_parameter(name)
        if parameter.shape != mask.shape or bool((parameter.detach()[~mask] != 0).any()):
            raise CompressionError(
                f"a later pass lost the zeros that pruning put into {name}; put the pruning of weights after it"
            )
    shared = {name: (model.get_parameter(name), labels) for name, labels in shared_of(model).items()}
    lost = [name for name, (parameter, labels) in shared.items() if parameter.shape != labels.shape]
    if not lost:
        before = {name: parameter.detach().clone() for name, (parameter, _) in shared.items()}
        enforce(model)
        lost = [name for name, (parameter, _) in shared.items() if bool((parameter.detach() != before[name]).any())]
    if lost:
        raise CompressionError(f"a later pass moved the shared weights of {lost[0]} apart; put share-weights after it")
    for attribute in (_MASKS, _SHARED, _VALUES):
        if hasattr(model, attribute):
            delattr(model, attribute)
