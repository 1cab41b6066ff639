"""What others make of the same nets, called as their documentation does, with the training that ours gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from edgedeploy.compress import apply_passes
from edgedeploy.compress.training import FineTune
from edgedeploy.errors import CompressionError
from tools.bench.techniques import RECOVER_EPOCHS, RECOVER_LEARNING_RATE

if TYPE_CHECKING:
    from torch import nn

    from tools.bench.subjects import Subject

RATIO, HALF, SPARSITY = 0.3, 0.5, 0.9


def torch_pruning(net: nn.Module, subject: Subject, ratio: float = RATIO, round_to: int | None = None) -> nn.Module:
    """Its MagnitudePruner with every default but the layer of the outputs left whole, then trained."""
    import torch
    import torch_pruning as tp
    from torch import nn as layers

    before = sum(parameter.numel() for parameter in net.parameters())
    inputs = torch.from_numpy(subject.task.example[0])
    last = [module for module in net.modules() if isinstance(module, layers.Linear)][-1]
    pruner = tp.pruner.MagnitudePruner(
        net,
        inputs,
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=[last],
        round_to=round_to,
    )
    pruner.step()
    if sum(parameter.numel() for parameter in net.parameters()) == before:
        raise CompressionError("removed nothing, and said nothing")
    return _recovered(net, subject)


def torch_prune(net: nn.Module, subject: Subject) -> nn.Module:
    """torch.nn.utils.prune over all layers at once; its masks stay in force while the net trains."""
    from torch import nn as layers
    from torch.nn.utils import prune

    kinds = (layers.Conv2d, layers.Linear, layers.GRU)
    # What is made beforehand of the weights of attention is not a layer that the pruning can hook into.
    pruned = [
        (module, name)
        for module in net.modules()
        if isinstance(module, kinds) and type(module).__name__ != "NonDynamicallyQuantizableLinear"
        for name, parameter in list(module.named_parameters(recurse=False))
        if parameter.ndim >= 2
    ]
    prune.global_unstructured(pruned, pruning_method=prune.L1Unstructured, amount=SPARSITY)
    net = _recovered(net, subject)
    for module, name in pruned:
        prune.remove(module, name)  # type: ignore[no-untyped-call]
    return net


def _recovered(net: nn.Module, subject: Subject) -> nn.Module:
    fine_tune = FineTune(epochs=RECOVER_EPOCHS, learning_rate=RECOVER_LEARNING_RATE)
    return apply_passes(net, [fine_tune], subject.task)


PEERS: Mapping[str, tuple[str, Callable[[nn.Module, Subject], nn.Module]]] = {
    "channels 30 %, as it is": ("Torch-Pruning", torch_pruning),
    "channels 30 %, rounded to 8": ("Torch-Pruning", lambda net, subject: torch_pruning(net, subject, RATIO, 8)),
    "channels 50 %, rounded to 8": ("Torch-Pruning", lambda net, subject: torch_pruning(net, subject, HALF, 8)),
    "magnitude L1, global 90 %": ("torch.nn.utils.prune", torch_prune),
}
