"""Structured pruning in depth: whole layers and residual blocks go, those that the net misses least."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from edgedeploy.compress import limits
from edgedeploy.compress.graph import hooked
from edgedeploy.compress.held import follow
from edgedeploy.compress.held_out import held_out_loss
from edgedeploy.compress.training import task_loss
from edgedeploy.compress.weights import chosen
from edgedeploy.errors import CompressionError, NothingToDo
from edgedeploy.task import predict

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgedeploy.task import Task

# What a net may raise that cannot do without a layer: such a layer is no candidate.
_FORWARD_ERRORS = (RuntimeError, ValueError, IndexError, TypeError, AttributeError, AssertionError)
_BATCH = 256


@dataclass(frozen=True, slots=True)
class DropLayers:
    """Take `count` layers out, one after the other: each time the one without which the loss rises least.

    A layer may go when what comes out of it has the shape of what went in: entries of nn.Sequential, nn.ModuleList and
    nn.TransformerEncoder, modules of the net's own classes, and the last layer of an nn.RNN, nn.GRU or nn.LSTM that
    has several. The loss is that of the calibration split; a fine-tune afterwards mends what is lost. `only` names the
    layers that may go; without `count` all of them do.
    """

    kind: ClassVar[str] = "drop-layers"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch",)

    count: int | None = None
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.count is None and not self.only:
            raise ValueError("count is missing; say how many layers go, or name them in only")
        limits.at_least(self, count=1)

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Drop the layers in place. Raises CompressionError where so many cannot go."""
        model.eval()
        fitting = _fitting(model, task)
        names = _layers(model, fitting)
        if self.only:
            names = _outermost(chosen(self.kind, sorted(fitting), self.only, ())) if fitting else []
        allowed = [model.get_submodule(name) for name in names]
        count = self.count or len(allowed)
        gone: list[str] = []
        while len(gone) < max(count, 1):
            # By the modules themselves: where a list gets shorter, the names of those behind change.
            there = [name for name, module in model.named_modules() if any(module is one for one in allowed)]
            losses = {name: loss for name in there if math.isfinite(loss := _loss_without(name, model, task))}
            if not losses:
                raise (CompressionError if gone else NothingToDo)(f"{self.kind}: {_why_not(gone, count)}")
            least = min(losses, key=losses.__getitem__)
            gone.append(least)
            _drop(model, least)
        return model


def _why_not(gone: list[str], count: int) -> str:
    if gone:
        return f"{count} layers cannot go, only {len(gone)} ({', '.join(gone)}); lower count"
    return (
        "no layer can be left out, for none with weights gives the shape that it takes and can be spared; "
        "make the layers narrower by prune-channels instead"
    )


def _fitting(model: nn.Module, task: Task) -> list[str]:
    """The names of all modules with weights whose output has the shape and type of their input.

    Recurrent layers on top of others count too.
    """
    import torch
    from torch import nn

    fits: dict[nn.Module, bool] = {}

    def watch(module: nn.Module, given: Any, result: Any) -> None:
        taken: Any = given[0] if given else None
        both = isinstance(taken, torch.Tensor) and isinstance(result, torch.Tensor)
        same = both and taken.shape == result.shape and taken.dtype == result.dtype
        fits[module] = fits.get(module, True) and same

    weighted = [module for module in model.modules() if any(weight.ndim >= 2 for weight in module.parameters())]
    hooks = [module.register_forward_hook(watch) for module in weighted]
    with hooked(hooks):
        predict(model, task.example)
    names = {name: module for name, module in model.named_modules() if name}
    return [n for n, m in names.items() if fits.get(m, False) or (isinstance(m, nn.RNNBase) and m.num_layers > 1)]


def _layers(model: nn.Module, fitting: list[str]) -> list[str]:
    """Of these modules those that are a layer or block of the net: neither parts of one nor stacks of several."""
    from torch import nn

    containers = (nn.Sequential, nn.ModuleList)
    stacks = {n for n, m in model.named_modules() if isinstance(m, (nn.TransformerEncoder, nn.TransformerDecoder))}
    blocks = set()
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        entries = {f"{prefix}{key}": child for key, child in module.named_children() if list(child.children())}
        alike = {entry: child for entry, child in entries.items() if entry in fitting}
        if isinstance(module, containers) and len(alike) > 1:
            stacks.add(name)
            blocks |= {entry for entry, child in alike.items() if not isinstance(child, containers)}
    whole = [
        name for name in fitting if name in blocks or not any(f"{stack}.".startswith(f"{name}.") for stack in stacks)
    ]
    return _outermost(whole)


def _outermost(names: list[str]) -> list[str]:
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]


def _loss_without(name: str, model: nn.Module, task: Task) -> float:
    """The mean loss on the calibration split without a layer; infinite where the net cannot do without it."""
    from torch import nn

    layer = model.get_submodule(name)
    if isinstance(layer, nn.RNNBase) and layer.num_layers == 1:
        return math.inf
    without = copy.deepcopy(model)
    _drop(without, name)
    try:
        return held_out_loss(without, task.calibration, task_loss(task), _BATCH)
    except _FORWARD_ERRORS:
        return math.inf


def _drop(model: nn.Module, name: str) -> None:
    from torch import nn

    layer = model.get_submodule(name)
    holder_name, _, place = name.rpartition(".")
    holder = model.get_submodule(holder_name)
    owner = model.get_submodule(holder_name.rpartition(".")[0])
    renamed: dict[str, str] = {}
    if isinstance(layer, nn.RNNBase):
        _drop_last(layer)
    elif isinstance(holder, nn.ModuleList) and isinstance(owner, (nn.TransformerEncoder, nn.TransformerDecoder)):
        # They ask their first layer for its attention, so that nothing else may stand there.
        behind = {f"{holder_name}.{i}.": f"{holder_name}.{i + 1}." for i in range(int(place), len(holder) - 1)}
        del holder[int(place)]
        owner.num_layers = len(holder)
        for new, old in behind.items():
            within = model.get_submodule(new.rstrip("."))
            renamed |= {new + parameter: old + parameter for parameter, _ in within.named_parameters()}
    else:
        model.set_submodule(name, _way_past()())
    follow(model, model, renamed)


def _drop_last(layer: nn.RNNBase) -> None:
    """Let a recurrent layer of several end one earlier; what comes out is as wide as before."""
    layer.num_layers -= 1
    directions = 2 if layer.bidirectional else 1
    for name in itertools.chain.from_iterable(layer._all_weights[-directions:]):
        delattr(layer, name)
        layer._flat_weights_names.remove(name)
    layer._all_weights = layer._all_weights[:-directions]
    layer._init_flat_weights()
    if layer.num_layers == 1:
        layer.dropout = 0.0  # it is between layers


@functools.cache
def _way_past() -> Any:
    from torch import nn

    class WayPast(nn.Module):
        """Gives what it takes, and leaves masks and the like aside."""

        def forward(self, rows: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            return rows

    return WayPast
