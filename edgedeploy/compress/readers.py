"""Which layers read the units of a recurrent layer, found by changing units and watching whose inputs change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgedeploy.compress.graph import hooked
from edgedeploy.errors import CompressionError

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """A layer by its name, and for each channel of its input the number of the unit that it reads, -1 for none."""

    name: str
    units: torch.Tensor


def units_of(layer: Any) -> int:
    """How many units an nn.RNNBase has over its layers and directions.

    They are numbered (layer * directions + direction) * hidden_size + unit.
    """
    return int(layer.num_layers * (1 + layer.bidirectional) * layer.hidden_size)


def is_norm(layer: nn.Module) -> bool:
    """Whether a layer normalises single channels, so that it can lose some and stay what it is."""
    from torch import nn

    flat = isinstance(layer, (nn.LayerNorm, nn.RMSNorm)) and len(layer.normalized_shape) == 1
    return flat or isinstance(layer, nn.BatchNorm1d)


def readers_of(kind: str, model: nn.Module, name: str, inputs: tuple[torch.Tensor, ...]) -> list[Reader]:
    """The layers that read the output or the last state of the recurrent layer `name`, norms on the way included.

    Each layer gives what it gave before while some units change, and norms let everything through, so that nothing but
    the way between two layers is seen. The units whose number has a certain bit set change together, then those that
    have it not: two runs a bit tell which unit it is that a channel follows. Raises CompressionError, led by the
    pass's `kind`, where a layer cannot lose single channels, or a channel follows several units.
    """
    import torch

    count = units_of(model.get_submodule(name))
    numbers = torch.arange(count)
    probe = _Probe(kind, model, name)
    with torch.no_grad(), probe.watching():
        outputs, before = probe.run(inputs, None)
        sides = {reader: torch.zeros(0, 2, len(flags)) for reader, flags in probe.differences(before, before).items()}
        for bit in range(max(1, (count - 1).bit_length())):
            pair: list[dict[str, torch.Tensor]] = []
            for side in (0, 1):
                found, after = probe.run(inputs, (numbers >> bit & 1) == side)
                if any(not torch.equal(one, other) for one, other in zip(outputs, found, strict=True)):
                    raise CompressionError(
                        f"{kind}: the units of {name} reach the net's output, or are mixed, with no layer in between "
                        f"whose input could lose them; put a linear layer there, or name {name} in skip"
                    )
                pair.append(probe.differences(before, after))
            for reader in sides:
                both = torch.stack([one[reader] for one in pair])
                sides[reader] = torch.cat([sides[reader], both[None]])
    return list(_decoded(kind, model, name, sides))


def _decoded(kind: str, model: nn.Module, name: str, sides: dict[str, torch.Tensor]) -> Iterator[Reader]:
    import torch

    for reader, changed in sides.items():  # (bits, side, channels)
        if not changed.any():
            continue
        layer = model.get_submodule(reader)
        if _channels_axis(layer) is None:
            raise CompressionError(
                f"{kind}: the units of {name} go into {reader} ({type(layer).__name__}), which cannot lose single "
                f"channels of what it reads; name {name} in skip"
            )
        reads = changed.any(dim=1)
        if not torch.equal(reads.any(dim=0), reads.all(dim=0)) or bool(changed.all(dim=1).any()):
            raise CompressionError(
                f"{kind}: on their way to {reader} units of {name} are mixed with each other, so that no channel "
                f"there is one unit's own; name {name} in skip"
            )
        powers = 2 ** torch.arange(len(changed))
        units = (changed[:, 1].long() * powers[:, None]).sum(0).masked_fill(~reads.any(dim=0), -1)
        yield Reader(reader, units)


def _channels_axis(layer: nn.Module) -> int | None:
    from torch import nn

    if isinstance(layer, nn.BatchNorm1d) or (isinstance(layer, nn.Conv1d) and layer.groups == 1):
        return 1
    return -1 if is_norm(layer) or isinstance(layer, (nn.Linear, nn.RNNBase)) else None


class _Probe:
    """Runs a net whose layers keep giving what they first gave, and notes what they are given."""

    def __init__(self, kind: str, model: nn.Module, changed: str) -> None:
        from torch import nn

        self.kind, self.model, self.changed = kind, model, changed
        inside = {id(part) for m in model.modules() if isinstance(m, nn.MultiheadAttention) for part in m.children()}
        self.layers = {
            name: module
            for name, module in model.named_modules()
            if next(module.parameters(recurse=False), None) is not None
            and id(module) not in inside
            and (isinstance(module, nn.MultiheadAttention) or next(module.children(), None) is None)
        }
        # A norm without weights of its own is one all the same.
        self.layers |= {name: module for name, module in model.named_modules() if is_norm(module)}
        self.first: dict[str, list[Any]] = {}
        self.seen: dict[str, list[list[torch.Tensor]]] = {}
        self.moved: torch.Tensor | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = [
            module.register_forward_hook(self._hook(name), with_kwargs=True) for name, module in self.layers.items()
        ]
        with hooked(handles):
            yield

    def run(
        self, inputs: tuple[torch.Tensor, ...], moved: torch.Tensor | None
    ) -> tuple[list[torch.Tensor], dict[str, list[list[torch.Tensor]]]]:
        """The net's outputs, and what each layer was given at each call, with the units moved that `moved` tells."""
        self.seen, self.moved = {name: [] for name in self.layers}, moved
        return _tensors(self.model(*inputs)), self.seen

    def differences(
        self, before: dict[str, list[list[torch.Tensor]]], after: dict[str, list[list[torch.Tensor]]]
    ) -> dict[str, torch.Tensor]:
        """For each layer that was called, which channels of its input differ in any call: (channels,)."""
        import torch

        found = {}
        for name, calls in before.items():
            axis = _channels_axis(self.layers[name])
            flags: list[torch.Tensor] = []
            for one, other in zip(calls, after[name], strict=True):
                changed = [a != b for a, b in zip(one, other, strict=True)]
                if axis is None:
                    flags.append(torch.stack([flag.any() for flag in changed]).any()[None])
                    continue
                if any(bool(flag.any()) for flag in changed[1:]):
                    raise CompressionError(
                        f"{self.kind}: the units of {self.changed} are the initial state of {name}, whose units would "
                        f"have to be the same ones; name {self.changed} in skip"
                    )
                flags.append(changed[0].movedim(axis, 0).flatten(1).any(dim=1))
            if flags:
                widest = max(len(flag) for flag in flags)
                found[name] = torch.stack([flag.expand(widest) for flag in flags]).any(dim=0)
        return found

    def _hook(self, name: str) -> Callable[..., Any]:
        from torch.utils._pytree import tree_map

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            given = _tensors((args, kwargs))
            call = len(self.seen[name])
            self.seen[name].append([tensor.clone() for tensor in given])
            if is_norm(module):
                return given[0]
            if self.moved is None:
                self.first.setdefault(name, []).append(tree_map(_copy, output))
                return None
            result = tree_map(_copy, self.first[name][call])
            return self._move(result, self.moved) if name == self.changed else result

        return hook

    def _move(self, output: Any, moved: torch.Tensor) -> Any:
        """`output` and last state of the recurrent layer with random numbers added to some units."""
        import torch

        layer: Any = self.layers[self.changed]
        random = torch.Generator().manual_seed(0)
        blocks = moved.view(-1, layer.hidden_size)
        sequence, state = output
        if not isinstance(sequence, torch.Tensor):
            raise CompressionError(
                f"{self.kind}: {self.changed} gives a {type(sequence).__name__}, in which units cannot be followed; "
                f"give it plain tensors, or name {self.changed} in skip"
            )

        def shifted(values: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
            return values + torch.randn(values.shape, generator=random) * which

        last = blocks[-(1 + layer.bidirectional) :].flatten()
        states = [shifted(one, blocks[:, None]) for one in (state if isinstance(state, tuple) else (state,))]
        return shifted(sequence, last), tuple(states) if isinstance(state, tuple) else states[0]


def _tensors(values: Any) -> list[torch.Tensor]:
    import torch
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _copy(value: Any) -> Any:
    import torch

    return value.clone() if isinstance(value, torch.Tensor) else value
