"""Re-ordering: channels change places so that like weights lie side by side, which helps whoever packs the file."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from edgedeploy.compress import limits
from edgedeploy.compress.checks import check_computes
from edgedeploy.compress.held import follow
from edgedeploy.compress.permutable import Axis, Coupled, parts, permutable
from edgedeploy.errors import NothingToDo

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgedeploy.task import Task

_EXAMPLES = 32
_CLASSES = 5


@dataclass(frozen=True, slots=True)
class ReorderChannels:
    """Change the order of channels and hidden units, which the net's function does not depend on.

    Storage only, and little: the packed files of pruned nets shrink by a few per cent. The order sought is that of the
    least `coded_bits`. "greedy" takes the best of three for each group: as it is, by the number of zeros,
    and a chain in which each is followed by the most similar one left. "evolutionary" goes on from there: in each of
    `generations` every one of `population` orders has a child, with two channels swapped or a stretch reversed, and
    the better half lives on.
    """

    kind: ClassVar[str] = "reorder-channels"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch", "torch-pruning")

    method: Literal["greedy", "evolutionary"] = "greedy"
    generations: int = 200
    population: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        limits.one_of(self, method=("greedy", "evolutionary"))
        limits.at_least(self, generations=1, population=1, seed=0)

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Re-order in place; what is held moves along. Raises CompressionError where no order is free."""
        import torch

        model.eval()
        inputs = tuple(torch.from_numpy(array[:_EXAMPLES]) for array in task.calibration.inputs)
        groups = permutable(self.kind, model, inputs)
        if not groups:
            raise NothingToDo(
                f"{self.kind}: no channels of this net can change places without changing what it computes; "
                "leave this pass out"
            )
        before = copy.deepcopy(model)
        random = torch.Generator().manual_seed(self.seed)
        for group in groups:
            cost = _cost_of(group)
            order = _greedy(group, cost)
            if self.method == "evolutionary":
                order = self._evolved(group, cost, order, random)
            group.permute(order)
        check_computes(self.kind, model, before, inputs, than="before", mend="leave this pass out")
        follow(model, before)
        return model

    def _evolved(
        self, group: Coupled, cost: Callable[[torch.Tensor], float], start: torch.Tensor, random: torch.Generator
    ) -> torch.Tensor:
        """(mu + lambda) evolution strategy: Beyer and Schwefel, Evolution strategies, Natural Computing 1, 2002."""
        blocks = parts(group)
        living = [(cost(start), 0, start)]
        for born in range(1, self.generations * self.population + 1):
            parent = living[born % len(living)][2]
            child = _mutated(parent, blocks, random)
            living.append((cost(child), born, child))
            if born % self.population == 0:
                living = sorted(living, key=lambda one: one[:2])[: self.population]
        return living[0][2]


def coded_bits(classes: torch.Tensor) -> float:
    """What an adaptive coder needs for a matrix of classes from 0 to 4, each coded given its left and upper neighbour.

    The count of each class in each context, with Krichevsky and Trofimov's half, is all that it learns from (IEEE
    Trans. IT 27(2), 1981); outside the matrix lies class 0.
    """
    import torch

    around = torch.nn.functional.pad(classes, (1, 0, 1, 0))
    joint = (around[1:, :-1] * _CLASSES + around[:-1, 1:]) * _CLASSES + classes
    counts = torch.bincount(joint.flatten(), minlength=_CLASSES**3).view(-1, _CLASSES).double() + 0.5
    nats = torch.lgamma(counts.sum(1)) - torch.lgamma(counts).sum(1)
    empty = math.lgamma(_CLASSES / 2) - _CLASSES * math.lgamma(0.5)
    return float((nats - empty).sum()) / math.log(2)


def classes_of(weight: torch.Tensor) -> torch.Tensor:
    """0 for zeros, 1 and 2 for small and large negative weights, 3 and 4 for positive ones, large above the median."""
    import torch

    magnitude = weight.abs()
    large = magnitude > magnitude[magnitude > 0].median() if bool((weight != 0).any()) else weight != 0
    classes = 1 + 2 * (weight > 0).long() + large.long()
    return classes.where(weight != 0, torch.zeros_like(classes))


def _cost_of(group: Coupled) -> Callable[[torch.Tensor], float]:
    matrices: dict[int, tuple[torch.Tensor, list[Axis]]] = {}
    for axis in group.axes:
        if axis.tensor.ndim >= 2:
            matrices.setdefault(id(axis.tensor), (classes_of(axis.tensor.detach()), []))[1].append(axis)

    def cost(order: torch.Tensor) -> float:
        total = 0.0
        for classes, axes in matrices.values():
            for axis in axes:
                classes = axis.permuted(classes, order)
            total += coded_bits(classes.flatten(1))
        return total

    return cost


def _greedy(group: Coupled, cost: Callable[[torch.Tensor], float]) -> torch.Tensor:
    import torch

    likeness = torch.zeros(group.channels, group.channels)
    filled = torch.zeros(group.channels)
    for axis in group.axes:
        if axis.tensor.ndim < 2:
            continue
        classes = classes_of(axis.tensor.detach()).movedim(axis.dim, 0)[axis.places].flatten(1)
        filled += (classes != 0).sum(1)
        for which in range(_CLASSES):
            same = (classes == which).float()
            likeness += same @ same.T
    as_it_is = torch.arange(group.channels)
    by_zeros = torch.cat([part[torch.argsort(filled[part], stable=True)] for part in parts(group)])
    chains = []
    for part in parts(group):
        near = likeness[part][:, part]
        at = int(torch.argmin(filled[part]))
        chain = [at]
        left = torch.ones(len(part), dtype=torch.bool)
        for _ in range(len(part) - 1):
            left[at] = False
            at = int(near[at].masked_fill(~left, -1.0).argmax())
            chain.append(at)
        chains.append(part[chain])
    return min((as_it_is, by_zeros, torch.cat(chains)), key=cost)


def _mutated(order: torch.Tensor, blocks: tuple[torch.Tensor, ...], random: torch.Generator) -> torch.Tensor:
    import torch

    places = blocks[int(torch.randint(len(blocks), (1,), generator=random))]
    drawn = torch.randint(len(places), (2,), generator=random)
    low, high = int(places[drawn.min()]), int(places[drawn.max()])
    child = order.clone()
    if bool(torch.rand(1, generator=random) < 0.5):
        child[[low, high]] = order[[high, low]]
    else:
        child[low : high + 1] = order[low : high + 1].flip(0)
    return child
