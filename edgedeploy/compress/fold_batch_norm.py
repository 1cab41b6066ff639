"""Batch norms folded into the layers before them, so that later passes see the net as it will be run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgedeploy.compress.graph import hooked
from edgedeploy.compress.held import enforce, release, shared_of
from edgedeploy.errors import CompressionError, NothingToDo
from edgedeploy.task import predict

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgedeploy.task import Task

_CHECKED = 64  # examples
_TOLERANCE = 1e-3  # of the largest output: float32 rounding through many layers, far below what a wrong fold would do


@dataclass(frozen=True, slots=True)
class FoldBatchNorm:
    """Fold each batch norm into the convolution or linear layer whose output goes into it alone.

    With its running statistics a batch norm scales and shifts every channel, and so can the layer before it (Jacob et
    al., arXiv:1712.05877, section 3.2). Zeros that are held stay; later training goes on without batch norm.
    """

    kind: ClassVar[str] = "fold-batch-norm"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch",)

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Fold in place; the net computes the same. Raises CompressionError where there is nothing to fold."""
        import torch
        from torch import nn
        from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

        model.eval()
        inputs = task.calibration.spread(_CHECKED)
        before = predict(model, inputs)
        pairs = list(foldable(model, tuple(torch.from_numpy(array) for array in task.example)))
        if not pairs:
            raise NothingToDo(
                f"{self.kind}: there is nothing to fold: the net has no batch norm that alone takes the output of a "
                "convolution or linear layer; leave this pass out"
            )
        names = {module: name for name, module in model.named_modules()}
        together = [name for layer, _ in pairs if (name := f"{names[layer]}.weight") in shared_of(model)]
        if together:
            raise CompressionError(
                f"{self.kind}: each channel of {', '.join(together)} would get a scale of its own, and the weights "
                "would no longer share their values; put this pass before the one that made them share"
            )
        for layer, norm in pairs:
            trained = layer.weight.requires_grad
            arguments = (
                layer.weight,
                layer.bias,
                norm.running_mean,
                norm.running_var,
                norm.eps,
                norm.weight,
                norm.bias,
            )
            if isinstance(layer, nn.Linear):
                layer.weight, layer.bias = fuse_linear_bn_weights(*arguments)
            else:
                transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
                layer.weight, layer.bias = fuse_conv_bn_weights(*arguments, transpose=transposed)
            layer.requires_grad_(trained)
        gone = {norm for _, norm in pairs}
        # The layer's bias too: it now carries the norm's shift, also for a channel whose bias was held at zero.
        changed = {f"{names[layer]}.bias" for layer, _ in pairs}
        release(model, changed | {f"{names[norm]}.{name}" for norm in gone for name, _ in norm.named_parameters()})
        for name, module in list(model.named_modules(remove_duplicate=False)):
            if module in gone:
                model.set_submodule(name, nn.Identity())
        enforce(model)  # a negative scale has made negative zeros
        self._check(before, predict(model, inputs))
        return model

    def _check(self, before: tuple[np.ndarray, ...], after: tuple[np.ndarray, ...]) -> None:
        for one, other in zip(before, after, strict=True):
            strayed = float(np.abs(one - other).max())
            if not strayed <= _TOLERANCE * float(np.abs(one).max()):
                raise CompressionError(
                    f"{self.kind}: the outputs moved by {strayed:.3g}, so folding did not keep what the net computes; "
                    "check that forward() takes the same way for every input, or leave this pass out"
                )


def foldable(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Iterator[tuple[Any, Any]]:
    """Layer and batch norm, where the layer runs once, its weights serve nothing else, and its output only the norm."""
    import torch
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.conv import _ConvNd
    from torch.overrides import TorchFunctionMode
    from torch.utils import _pytree as pytree

    uses: Counter[int] = Counter()
    kept: list[Any] = []  # holds what was counted, so that no identity is used twice

    class Count(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            if any(isinstance(one, torch.Tensor) for one in pytree.tree_leaves(result)):  # not a size, not a type
                taken = [one for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
                kept.extend(taken)
                uses.update({id(one) for one in taken})
            return result

    made: list[tuple[Any, torch.Tensor]] = []
    normed: list[tuple[Any, torch.Tensor]] = []
    layers = [module for module in model.modules() if isinstance(module, (_ConvNd, nn.Linear))]
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    hooks = [layer.register_forward_hook(lambda m, _, output: made.append((m, output))) for layer in layers]
    hooks += [norm.register_forward_pre_hook(lambda m, given: normed.append((m, given[0]))) for norm in norms]
    with hooked(hooks), torch.no_grad(), Count():
        outputs = {id(one) for one in pytree.tree_leaves(model(*inputs))}
    runs = Counter(module for module, _ in (*made, *normed))
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    for layer, output in made:
        norm = next((norm for norm, given in normed if given is output), None)
        if norm is None or uses[id(output)] != 1 or id(output) in outputs or runs[layer] != 1 or runs[norm] != 1:
            continue
        held = [p for module in (layer, norm) for p in module.parameters(recurse=False)]
        alone = all(owners[id(p)] == 1 and uses[id(p)] <= 1 for p in held)
        if alone and norm.running_mean is not None and _channels_are_scaled(layer, output):
            yield layer, norm


def _channels_are_scaled(layer: nn.Module, output: torch.Tensor) -> bool:
    """Whether the second axis, which a batch norm scales, is that of the layer's outputs, one scale a weight."""
    from torch import nn
    from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

    if isinstance(layer, nn.Linear):
        return output.ndim == 2
    assert isinstance(layer, _ConvNd)
    return not (isinstance(layer, _ConvTransposeNd) and layer.groups > 1)  # there a weight's axis holds several groups
