"""What counts as a net's weights for the passes that touch them one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from edgedeploy.errors import CompressionError, NothingToDo

if TYPE_CHECKING:
    import torch
    from torch import nn


def weights(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, int]]:
    """Name, matrix or kernel, and axis of the output channels, of each convolution, linear, recurrent, attention layer.

    Biases and normalisation are left out; two names of one tied tensor are one weight.
    """
    from torch import nn
    from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

    seen = set()
    for prefix, module in model.named_modules():
        if not isinstance(module, (_ConvNd, nn.Linear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)):
            continue
        axis = 1 if isinstance(module, _ConvTransposeNd) else 0
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim >= 2 and id(parameter) not in seen:
                seen.add(id(parameter))
                yield joined(prefix, name), parameter, axis


def joined(prefix: str, name: str) -> str:
    """The full name of what is called `name` in the module `prefix`, the net itself where that is empty."""
    return f"{prefix}.{name}" if prefix else name


def chosen_weights(
    kind: str, model: nn.Module, only: Sequence[str], skip: Sequence[str], purpose: str
) -> dict[str, int]:
    """Name and axis of the output channels of each weight that `only` and `skip` leave; see `weights` and `chosen`.

    Raises NothingToDo where the net has none at all, with `purpose` saying what for, and CompressionError.
    """
    found = {name: axis for name, _, axis in weights(model)}
    if not found:
        raise NothingToDo(f"{kind}: the net has no convolution, linear or recurrent layer {purpose}")
    return {name: found[name] for name in chosen(kind, list(found), only, skip)}


def chosen(kind: str, names: Sequence[str], only: Sequence[str], skip: Sequence[str]) -> list[str]:
    """Those of `names` that `only` names (all where it is empty) and `skip` does not, in their order.

    Both hold names of layers, which stand for all inside, or of single weights; `*` and `?` stand for any characters.
    Raises CompressionError, led by the pass's `kind`, where an entry names nothing or nothing is left.
    """
    for setting, entries in (("only", only), ("skip", skip)):
        for entry in entries:
            if not any(_is_part(name, entry) for name in names):
                raise CompressionError(
                    f"{kind}: {setting} names {entry!r}, but nothing is called so; these are: {', '.join(names)}"
                )
    left = [
        name
        for name in names
        if (not only or any(_is_part(name, entry) for entry in only)) and not any(_is_part(name, e) for e in skip)
    ]
    if names and not left:
        raise CompressionError(f"{kind}: only and skip leave nothing of {', '.join(names)}")
    return left


def _is_part(name: str, of: str) -> bool:
    return fnmatchcase(name, of) or fnmatchcase(name, f"{of}.*")


class Part(NamedTuple):
    """A parameter with the axis along which its outputs lie, `gates` times over where a recurrent layer stacks them."""

    name: str
    axis: int
    gates: int

    def squares(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of the squares that make each output, of shape (outputs,)."""
        rows = values.movedim(self.axis, 0)
        return rows.square().reshape(len(rows), -1).sum(1).view(self.gates, -1).sum(0)

    def scale_(self, values: torch.Tensor, by: torch.Tensor) -> None:
        """Multiply in place what makes each output by its number, of shape (outputs,)."""
        rows = values.movedim(self.axis, 0)
        rows.mul_(by.repeat(self.gates).view(-1, *(1,) * (rows.ndim - 1)))


Group = tuple[Part, ...]


def output_groups(model: nn.Module, names: Sequence[str]) -> list[Group]:
    """The named weights by what makes the same outputs together, each with its biases.

    The matrices of a recurrent layer make one group, whose outputs are its hidden units.
    """
    from torch import nn

    groups: dict[tuple[str, str, int], list[Part]] = {}
    for name, weight, axis in weights(model):
        if name not in names:
            continue
        prefix, _, own = name.rpartition(".")
        module = model.get_submodule(prefix)
        gates = 1
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase)) and own.startswith(("weight_ih", "weight_hh")):
            gates = len(weight) // int(module.hidden_size)
        outputs = weight.shape[axis] // gates
        kind = own.replace("weight_ih", "gates").replace("weight_hh", "gates")
        group = groups.setdefault((prefix, kind, outputs), [])
        group.append(Part(name, axis, gates))
        bias = own.replace("weight", "bias")
        parameter = getattr(module, bias, None)
        if bias != own and parameter is not None and len(parameter) == weight.shape[axis]:
            group.append(Part(joined(prefix, bias), 0, gates))
    return [tuple(group) for group in groups.values()]
