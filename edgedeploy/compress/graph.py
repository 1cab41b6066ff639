"""Facts about a net that structured pruning needs and that only running it can tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils.hooks import RemovableHandle

# Autograd nodes that only carry a weight to where it is multiplied.
_CARRIERS = ("TBackward", "TransposeBackward", "ViewBackward", "UnsafeViewBackward", "PermuteBackward")


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Hooks that were registered serve within the block, and are removed as it ends, however it does."""
    with ExitStack() as removed:
        for handle in handles:
            removed.enter_context(handle)
        yield


def layers_of_fixed_width(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[nn.Module]:
    """The layers whose channels are the net's outputs, or go into a recurrent layer, which is built for so many.

    These are the last ones with weights on each way there.
    """
    import torch
    from torch import nn

    owners = {parameter: module for module in model.modules() for parameter in module.parameters(recurse=False)}
    ends: list[torch.Tensor] = []
    recurrent = [module for module in model.modules() if isinstance(module, (nn.RNNBase, nn.RNNCellBase))]
    hooks = [layer.register_forward_pre_hook(lambda _, given: ends.append(given[0])) for layer in recurrent]
    with hooked(hooks), torch.enable_grad():
        output = model(*inputs)
    ends += output if isinstance(output, (tuple, list)) else (output,)
    found: list[nn.Module] = []
    waiting = [one.grad_fn for one in ends if getattr(one, "grad_fn", None) is not None]
    seen = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        weights = [parameter for parameter in _weights_into(node) if parameter.ndim >= 2 and parameter in owners]
        if weights:
            found += [owners[weight] for weight in weights]
        else:
            waiting += [following for following, _ in node.next_functions]
    return list(dict.fromkeys(found))


def _weights_into(node: Any) -> Iterator[nn.Parameter]:
    for following, _ in node.next_functions:
        while following is not None and type(following).__name__.startswith(_CARRIERS):
            following = following.next_functions[0][0]
        if following is not None and hasattr(following, "variable"):
            yield following.variable


def splits_into_groups(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> dict[nn.Module, int]:
    """Linear layers whose output is split at once along its channels, as attention does into heads, and into how many.

    Queries, keys and values from one layer may be taken apart first, by chunk or split. Each group must lose the
    same channels, or the heads would mix.
    """
    import torch
    from torch import nn
    from torch.overrides import TorchFunctionMode

    groups: dict[nn.Module, int] = {}
    produced: list[tuple[torch.Tensor, nn.Linear]] = []  # holds the tensors, so that no identity is used twice

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            name = getattr(function, "__name__", "")
            if name in ("view", "reshape", "unflatten", "chunk", "split"):
                layer = next((layer for tensor, layer in produced if tensor is args[0]), None)
                if layer is not None and name in ("chunk", "split"):
                    produced.extend((part, layer) for part in result if part.shape[-1] < args[0].shape[-1])
                elif layer is not None and result.shape[-1] < args[0].shape[-1]:
                    groups[layer] = layer.out_features // result.shape[-1]
            return result

    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_hook(lambda m, _, output: produced.append((output, m))) for layer in linears]
    with hooked(hooks), torch.no_grad(), Watch():
        model(*inputs)
    return groups
