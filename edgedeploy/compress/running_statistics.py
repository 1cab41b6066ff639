"""Batch norms told anew what they normalise, after weights have changed in a way that no training saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from edgedeploy.task import Arrays


def estimate(model: nn.Module, inputs: Arrays, batch_size: int) -> None:
    """Set each batch norm's running mean and variance to their mean over batches of all inputs.

    The rest of the net runs in eval mode, which the whole net is left in; batches are cut as evenly as they can be.
    """
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches, in place of one that forgets
        norm.train()
    count = max(1, len(inputs[0]) // batch_size)
    with torch.no_grad():
        for parts in zip(*(torch.tensor_split(torch.from_numpy(array), count) for array in inputs), strict=True):
            model(*parts)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
