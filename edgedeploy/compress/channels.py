"""Structured pruning: whole channels go, so that the net that remains is an ordinary, narrower one."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from edgedeploy.compress import limits
from edgedeploy.compress.attention import spell_out
from edgedeploy.compress.checks import checked_outputs
from edgedeploy.compress.held import follow
from edgedeploy.compress.training import Training, reproducible, train
from edgedeploy.compress.widths import Widths, layers_with_channels
from edgedeploy.errors import NothingToDo

if TYPE_CHECKING:
    from torch import nn

    from edgedeploy.task import Task

Importance = Literal["l1", "l2", "gradient", "random"]
_KNOWN = {"importance": ("l1", "l2", "gradient", "random"), "scope": ("uniform", "global")}


@dataclass(frozen=True, slots=True)
class PruneChannels:
    """Remove the share `ratio` of the channels of convolutions and linear layers, the least important first.

    What depends on a channel goes with it: the next layers' inputs, normalisation, the other branch of a
    residual. The layers that make the outputs keep their width, and recurrent layers are left whole. `only` and
    `skip` name layers; channels that several layers make together go where all of these may lose them.
    Widths that remain are rounded down to multiples of `round_to`, for kernels work in blocks of 8 or 16 and an odd
    width may be slower than the full one; None takes it from the fleet's device profiles, and is 1 without a fleet.
    "uniform" takes the share from each layer, "global" wherever it matters least, though never a layer's last
    `round_to` channels.

    Importance of a channel is the norm of all weights that go with it ("l1", "l2"), how much the loss on the
    calibration split would change without it by the first-order Taylor expansion ("gradient": Molchanov et al.,
    arXiv:1906.10771), or drawn from `seed` ("random"), the baseline that the others have to beat.
    """

    kind: ClassVar[str] = "prune-channels"
    version: ClassVar[int] = 2
    tools: ClassVar[tuple[str, ...]] = ("torch", "torch-pruning")

    ratio: float
    round_to: int | None = None
    importance: Importance = "l2"
    scope: Literal["uniform", "global"] = "uniform"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        limits.share(self, "ratio")
        limits.at_least(self, round_to=1)
        limits.seed(self)
        limits.one_of(self, **_KNOWN)

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Return the net with the channels cut out. Raises NothingToDo when there is nothing that it can cut."""
        (cut,) = cuts(model, task, self, self.kind)
        return cut


@dataclass(frozen=True, slots=True)
class PruneChannelsGradually(Training):
    """Remove channels as `PruneChannels` does, in `steps` equal parts, and train between and after them.

    The epochs are shared out among the parts, the last taking what is left over; the schedule starts anew in each.
    """

    kind: ClassVar[str] = "prune-channels-gradually"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch", "torch-pruning")

    ratio: float = field(kw_only=True)
    steps: int = 4
    round_to: int | None = None
    importance: Importance = "l2"
    scope: Literal["uniform", "global"] = "uniform"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        Training.__post_init__(self)  # super() does not find its class once slots have made another
        self._cut()
        limits.at_least(self, steps=1)
        if self.epochs < self.steps:
            raise ValueError(f"epochs is {self.epochs}; it must be at least steps, {self.steps}, one after each cut")

    def _cut(self) -> PruneChannels:
        return PruneChannels(
            self.ratio, self.round_to, self.importance, self.scope, self.only, self.skip, seed=self.seed
        )

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Return the net cut and trained. Raises NothingToDo, or CompressionError when the training diverges."""
        each, left_over = divmod(self.epochs, self.steps)
        with reproducible(self):
            for step, narrower in enumerate(cuts(model, task, self._cut(), self.kind, self.steps), start=1):
                epochs = each + (left_over if step == self.steps else 0)
                train(narrower, task, dataclasses.replace(self, steps=1, epochs=epochs))
                model = narrower
        return model


def cuts(model: nn.Module, task: Task, settings: PruneChannels, kind: str, steps: int = 1) -> Iterator[nn.Module]:
    """The net after each of `steps` cuts of an equal share of the channels that it has at first, always the same one.

    It may be trained before the next is asked for. Raises CompressionError, led by `kind`, NothingToDo where nothing
    can be cut.
    """
    model.eval()
    if steps > 1:  # before any training: with rounding the first steps may cut nothing, and the last one more
        next(cuts(copy.deepcopy(model), task, settings, kind))
    before = _count_parameters(model)
    model, widths = _widths(model, task, settings, kind)
    for step in range(1, steps + 1):
        widths.cut(settings.ratio * step / steps)
        follow(model, model)
        if step == steps and _count_parameters(model) == before:
            raise NothingToDo(f"{kind}: {_nothing_pruned(model, settings)}")
        checked_outputs(kind, model, task.example)
        yield model


def _widths(model: nn.Module, task: Task, settings: PruneChannels, kind: str) -> tuple[nn.Module, Widths]:
    """The net itself, or its attention spelled out where that is to be cut too, and what cuts it."""
    how = {name: getattr(settings, name) for name in ("importance", "scope", "seed")}
    how["round_to"] = settings.round_to or 1
    spelled_out = copy.deepcopy(model)
    packed = spell_out(spelled_out)
    names = layers_with_channels(spelled_out, settings.only, settings.skip, kind)
    if packed:
        widths = Widths(spelled_out, task, names, **how)
        attention = {name.rsplit(".", 2)[0] for name in packed}
        if any(name.rpartition(".")[0] in attention for name in widths.reaches()):
            return spelled_out, widths
    return model, Widths(model, task, names, **how)


def _nothing_pruned(model: nn.Module, settings: PruneChannels) -> str:
    from torch import nn

    recurrent = sorted({type(m).__name__ for m in model.modules() if isinstance(m, (nn.RNNBase, nn.RNNCellBase))})
    if recurrent:
        return (
            f"nothing was pruned: the channels of {', '.join(recurrent)} are coupled over the gates and are left "
            "whole, and no other layer can give any; use prune-hidden-units for this net"
        )
    return (
        f"nothing was pruned: no layer inside the net can give {settings.ratio:.0%} of its channels "
        f"and keep a multiple of {settings.round_to or 1}; lower round_to, or leave this pass out"
    )


def _count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
