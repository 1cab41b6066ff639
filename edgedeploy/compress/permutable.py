"""Which channels and hidden units of a net may change places, together with all that depends on them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgedeploy.compress.checks import check_computes
from edgedeploy.compress.graph import layers_of_fixed_width
from edgedeploy.compress.saliency import trainable
from edgedeploy.compress.units import find_units, tensor
from edgedeploy.compress.widths import pruner
from edgedeploy.errors import CompressionError

if TYPE_CHECKING:
    import torch
    from torch import nn

# Torch-Pruning's names.
_WITHOUT_WEIGHTS = ("ElementWise", "Reshape", "Concat", "Split", "Slice", "Expand", "Unbind")


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One axis of a parameter or buffer; row c of `places`, (channels, places a channel), moves with channel c."""

    tensor: torch.Tensor
    dim: int
    places: torch.Tensor

    def permuted(self, tensor: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        """`tensor`, of the axis's shape, with channel order[c] where channel c was."""
        import torch

        index = torch.arange(tensor.shape[self.dim])
        index[self.places.flatten()] = self.places[order].flatten()
        return tensor.index_select(self.dim, index)


@dataclass(frozen=True, slots=True, eq=False)
class Coupled:
    """Axes that must change their order together; channels stay within `blocks` equal parts, such as heads."""

    name: str
    channels: int
    blocks: int
    axes: tuple[Axis, ...]

    def permute(self, order: torch.Tensor) -> None:
        """Bring the channels into this order, in place."""
        import torch

        with torch.no_grad():
            for axis in self.axes:
                axis.tensor.copy_(axis.permuted(axis.tensor, order))


def permutable(kind: str, model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[Coupled]:
    """The groups of channels whose order the net's function does not depend on, each tried out on `inputs`.

    Found are the channels of convolutions and linear layers, as Torch-Pruning couples them, and the hidden units of
    recurrent layers, as `units.find_units` does, each layer and direction by itself. What changes the outputs by more
    than rounding is left out, such as channels that forward() tells apart.
    """
    import torch

    random = torch.Generator().manual_seed(0)
    found = []
    untouched = copy.deepcopy(model)
    for group in (*_channels(model, inputs), *_hidden_units(kind, model, inputs)):
        order = torch.cat([part[torch.randperm(len(part), generator=random)] for part in parts(group)])
        group.permute(order)
        try:
            check_computes(kind, model, untouched, inputs, than="before", mend="leave this pass out")
            found.append(group)
        except CompressionError:
            continue
        finally:
            group.permute(torch.argsort(order))
    return found


def parts(group: Coupled) -> tuple[torch.Tensor, ...]:
    """The channels of each block."""
    import torch

    return torch.split(torch.arange(group.channels), group.channels // group.blocks)


def _channels(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Iterator[Coupled]:
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    names = {id(module): name for name, module in model.named_modules()}
    numbers = {id(one): number for number, one in enumerate((*model.parameters(), *model.buffers()))}
    with trainable(model), warnings.catch_warnings():
        # Said of unrolled recurrent layers, whose channels are not looked for there.
        warnings.filterwarnings("ignore", message="Maximum recursive depth reached", category=UserWarning)
        view = pruner(model, tuple(tensor[:1] for tensor in inputs), layers_of_fixed_width(model, inputs))
        groups = list(view.DG.get_all_groups(view.ignored_layers, (_ConvNd, nn.Linear)))
    for group in groups:
        channels = len(group[0].idxs)
        axes: dict[tuple[int, int], Axis] = {}
        for item in group:
            tensors = _tensors(item.dep.target, view.DG.is_out_channel_pruning_fn(item.dep.handler))
            places = _places(item.idxs, item.root_idxs, channels)
            if tensors is None or places is None:
                break
            axes.update({(id(tensor), dim): Axis(tensor, dim, places) for tensor, dim in tensors})
        else:
            blocks = view._get_channel_groups(group)
            if channels % blocks == 0 and channels > blocks:
                # Torch-Pruning lists what is coupled in an order that differs from run to run.
                ordered = tuple(axes[key] for key in sorted(axes, key=lambda key: (numbers[key[0]], key[1])))
                yield Coupled(names[id(group[0].dep.target.module)], channels, blocks, ordered)


def _places(indices: Sequence[int], roots: Sequence[int], channels: int) -> torch.Tensor | None:
    """For each channel of the group its places along an axis; None where they are not equally many."""
    import torch

    if len(indices) % channels:
        return None
    pairs = sorted(zip(roots, indices, strict=True))
    rows = torch.tensor(pairs).view(channels, -1, 2)
    return rows[:, :, 1] if bool((rows[:, :, 0] == torch.arange(channels)[:, None]).all()) else None


def _tensors(node: Any, out: bool) -> list[tuple[torch.Tensor, int]] | None:
    """What moves when the outputs, or else the inputs, of a node of Torch-Pruning's graph do; None if unknown."""
    from torch import nn
    from torch.nn.modules.batchnorm import _NormBase
    from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
    from torch_pruning import ops

    module = node.module
    found: list[tuple[Any, int]]
    if isinstance(module, nn.Parameter):
        found = [(module, node.pruning_dim)]
    elif isinstance(module, tuple(getattr(ops, f"_{name}Op") for name in _WITHOUT_WEIGHTS)):
        found = []
    elif isinstance(module, _ConvNd):
        whole = module.groups == 1
        if not whole and not module.groups == module.in_channels == module.out_channels:
            return None
        transposed = isinstance(module, _ConvTransposeNd) and whole
        found = [(module.weight, int(out == transposed) if whole else 0)]
        found += [(module.bias, 0)] if out or not whole else []
    elif isinstance(module, nn.Linear):
        found = [(module.weight, 0), (module.bias, 0)] if out else [(module.weight, 1)]
    elif isinstance(module, _NormBase):
        found = [(one, 0) for one in (module.weight, module.bias, module.running_mean, module.running_var)]
    elif isinstance(module, nn.LayerNorm):
        found = [(module.weight, len(module.normalized_shape) - 1), (module.bias, len(module.normalized_shape) - 1)]
    elif isinstance(module, nn.PReLU):
        found = [(module.weight, 0)] if module.num_parameters > 1 else []
    elif isinstance(module, nn.Embedding):
        found = [(module.weight, 1)]
    elif isinstance(module, nn.MultiheadAttention):
        inside = (module.in_proj_weight, module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
        found = [(module.out_proj.weight, 0), (module.out_proj.bias, 0), *((weight, 1) for weight in inside)]
    else:
        return None
    return [(tensor, dim) for tensor, dim in found if tensor is not None]


def _hidden_units(kind: str, model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Iterator[Coupled]:
    import torch
    from torch import nn

    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.RNNBase)]
    for name, layer in layers:
        if layer.proj_size:
            continue
        try:
            units = find_units(kind, model, name, inputs)
        except CompressionError:
            continue
        for block, names in enumerate(layer._all_weights):
            axes = []
            for part in units.parts:
                own = (part.units >= block * layer.hidden_size) & (part.units < (block + 1) * layer.hidden_size)
                if own.any():
                    places = own.nonzero().flatten()[torch.argsort(part.units[own], stable=True)]
                    axes.append(Axis(tensor(model, part.tensor), part.axis, places.view(layer.hidden_size, -1)))
            yield Coupled(f"{name}.{names[1]}", layer.hidden_size, 1, tuple(axes))
