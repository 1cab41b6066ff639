"""What belongs to one unit of a recurrent layer: its share of every gate, and of all that reads it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgedeploy.compress.readers import Reader, is_norm, readers_of
from edgedeploy.compress.weights import joined

if TYPE_CHECKING:
    import torch
    from torch import nn

# The gate, counted in blocks of rows, that alone writes the state: where its rows are 0, the unit stays 0.
_WRITES = {"LSTM": 2, "GRU": 2, "RNN_TANH": 0, "RNN_RELU": 0}


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """An axis of a parameter or buffer, and for each index along it the number of the unit behind it, -1 for none."""

    tensor: str
    axis: int
    units: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """A recurrent layer by its name, who reads its units, and all that belongs to them; see `readers.units_of`."""

    layer: str
    readers: Sequence[Reader]
    parts: Sequence[Part]


def find_units(kind: str, model: nn.Module, name: str, inputs: tuple[torch.Tensor, ...]) -> Units:
    """Raises CompressionError where the readers of the layer `name` cannot lose single units; see `readers_of`."""
    readers = readers_of(kind, model, name, inputs)
    parts = [*_own_parts(name, model.get_submodule(name)), *_parts_of_readers(model, readers)]
    return Units(name, readers, parts)


def tensor(model: nn.Module, name: str) -> torch.Tensor:
    """The parameter or buffer of this name."""
    module, _, last = name.rpartition(".")
    found: torch.Tensor = getattr(model.get_submodule(module), last)
    return found


def add_to_units(totals: torch.Tensor, part: Part, values: torch.Tensor) -> None:
    """Add to each unit's total, in place, those of the tensor's `values` that belong to it."""
    sums = values.movedim(part.axis, 0).flatten(1).sum(dim=1) if values.ndim > 1 else values
    own = part.units >= 0
    totals.index_add_(0, part.units[own], sums[own])


def silenced(model: nn.Module, found: Sequence[Units], kept: Mapping[str, torch.Tensor]) -> nn.Module:
    """A copy in which the units that are not `kept` stay at 0, and in which norms see the others alone."""
    import torch

    silent = copy.deepcopy(model)
    with torch.no_grad():
        for units in found:
            layer: Any = silent.get_submodule(units.layer)
            gate, hidden = _WRITES[layer.mode], layer.hidden_size
            for names, remain in zip(layer._all_weights, torch.split(kept[units.layer], hidden), strict=True):
                for name in names:
                    getattr(layer, name)[gate * hidden : (gate + 1) * hidden][~remain] = 0
    for name, channels in _kept_channels(found, kept).items():
        if is_norm(silent.get_submodule(name)):
            silent.get_submodule(name).register_forward_hook(_narrow_norm(channels))
    return silent


def cut(model: nn.Module, found: Sequence[Units], kept: Mapping[str, torch.Tensor]) -> None:
    """Leave out, in place, all that belongs to units that are not `kept` (True at their numbers), and no more."""
    import torch

    remaining: dict[tuple[str, int], torch.Tensor] = {}
    for units in found:
        for part in units.parts:
            place = part.tensor, part.axis
            remaining[place] = remaining.get(place, torch.tensor(True)) & _kept(part.units, kept[units.layer])
    for (name, axis), mask in remaining.items():
        prefix, _, last = name.rpartition(".")
        owner = model.get_submodule(prefix)
        whole = getattr(owner, last)
        values = whole.detach().index_select(axis, mask.nonzero().flatten()).clone()
        is_parameter = isinstance(whole, torch.nn.Parameter)
        setattr(owner, last, torch.nn.Parameter(values, whole.requires_grad) if is_parameter else values)
    for name, channels in _kept_channels(found, kept).items():
        _set_width(model.get_submodule(name), int(channels.sum()))
    for units in found:
        layer: Any = model.get_submodule(units.layer)
        layer.hidden_size = layer.weight_hh_l0.shape[1]
        layer._init_flat_weights()  # what the kernels are given is a list of its own


def _own_parts(name: str, layer: Any) -> Iterator[Part]:
    """What a recurrent layer itself holds of its units, the inputs of its second and later layers included."""
    import torch

    directions, hidden = 1 + layer.bidirectional, layer.hidden_size
    for block, names in enumerate(layer._all_weights):
        units = block * hidden + torch.arange(hidden)
        layer_before = (block // directions - 1) * directions * hidden + torch.arange(directions * hidden)
        for last in names:
            yield Part(joined(name, last), 0, units.repeat(len(getattr(layer, last)) // hidden))
            if last.startswith("weight_hh"):
                yield Part(joined(name, last), 1, units)
            elif last.startswith("weight_ih") and block >= directions:
                yield Part(joined(name, last), 1, layer_before)


def _parts_of_readers(model: nn.Module, readers: Sequence[Reader]) -> Iterator[Part]:
    from torch import nn

    for reader in readers:
        layer = model.get_submodule(reader.name)
        if is_norm(layer):
            tensors = (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))
            yield from (Part(joined(reader.name, last), 0, reader.units) for last, one in tensors if one.ndim == 1)
            continue
        first_layer = ("weight_ih_l0", "weight_ih_l0_reverse") if isinstance(layer, nn.RNNBase) else ("weight",)
        yield from (Part(joined(reader.name, last), 1, reader.units) for last in first_layer if hasattr(layer, last))


def _kept(units: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    return kept[units.clamp(min=0)] | (units < 0)


def _kept_channels(found: Sequence[Units], kept: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """For each reader which of its input channels remain."""
    import torch

    channels: dict[str, torch.Tensor] = {}
    for units in found:
        for reader in units.readers:
            before = channels.get(reader.name, torch.tensor(True))
            channels[reader.name] = before & _kept(reader.units, kept[units.layer])
    return channels


def _set_width(layer: Any, width: int) -> None:
    from torch import nn

    if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
        layer.normalized_shape = (width,)
        return
    names = {nn.BatchNorm1d: "num_features", nn.Conv1d: "in_channels", nn.Linear: "in_features"}
    attribute = next((name for kind, name in names.items() if isinstance(layer, kind)), "input_size")
    setattr(layer, attribute, width)


def _narrow_norm(channels: torch.Tensor) -> Callable[..., torch.Tensor]:
    """What a norm gives when it sees these channels alone; the others are 0."""
    import torch
    from torch import nn

    def hook(layer: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        if isinstance(layer, nn.BatchNorm1d):
            return output * channels.view(-1, *[1] * (output.ndim - 2))
        narrow = copy.deepcopy(layer)
        narrow._forward_hooks.clear()
        narrow.normalized_shape = (int(channels.sum()),)
        for name, parameter in narrow.named_parameters():
            setattr(narrow, name, nn.Parameter(parameter.detach()[channels]))
        result = torch.zeros_like(output)
        result[..., channels] = narrow(args[0][..., channels])
        return result

    return hook
