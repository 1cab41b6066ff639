"""Structured pruning of recurrent layers: whole units go, with their part of every gate and of whatever reads them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from edgedeploy.compress import limits
from edgedeploy.compress.checks import check_computes
from edgedeploy.compress.held import follow
from edgedeploy.compress.readers import units_of
from edgedeploy.compress.saliency import losses, trainable
from edgedeploy.compress.units import Units, add_to_units, cut, find_units, silenced, tensor
from edgedeploy.compress.weights import chosen
from edgedeploy.errors import CompressionError, NothingToDo

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgedeploy.task import Task

_PROBED_EXAMPLES = 16


@dataclass(frozen=True, slots=True)
class PruneHiddenUnits:
    """Remove the share `ratio` of the units of nn.RNN, nn.LSTM and nn.GRU, the least important first.

    With a unit go its rows in every gate, its column in the recurrent weights, and its columns in the layers that read
    it: the next recurrent layer, or those that follow the output or the last state, norms in between included. Each
    layer and direction chooses its own units, and as many remain in each, a multiple of `round_to` (None counts as 1).

    "l1" and "l2" are norms over all weights that go with a unit; "gradient" is the squared first-order change of the
    loss when nothing reads the unit any more, summed over calibration examples (Molchanov et al.,
    arXiv:1906.10771, equation 8); "random" draws with `seed`. `only` and `skip` name recurrent layers.
    """

    kind: ClassVar[str] = "prune-hidden-units"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch",)

    ratio: float
    round_to: int | None = None
    importance: Literal["l1", "l2", "gradient", "random"] = "l2"
    seed: int = 0
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        limits.share(self, "ratio")
        limits.at_least(self, round_to=1)
        if self.importance not in ("l1", "l2", "gradient", "random"):
            raise ValueError(f"importance is {self.importance!r}; it must be l1, l2, gradient or random")
        limits.seed(self)

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Return a narrower copy; zeros and shared weights that are held stay held.

        On calibration examples it computes what the full net does while these units are silent. Raises
        CompressionError where that cannot be had, or nothing can be cut; the net is then left whole.
        """
        import torch

        model.eval()
        inputs = tuple(torch.from_numpy(array) for array in task.calibration.spread(_PROBED_EXAMPLES))
        widths = self._widths(model)
        found = [find_units(self.kind, model, name, inputs) for name in widths]
        self._check_untied(model, found)
        if self.importance == "gradient":
            scores = _loss_changes(model, found, task)
        else:
            scores = self._scores(model, found)
        kept = {
            units.layer: _best(scores[units.layer], model.get_submodule(units.layer), widths[units.layer])
            for units in found
        }
        narrow = copy.deepcopy(model)
        cut(narrow, found, kept)
        follow(narrow, model)
        check_computes(
            self.kind,
            narrow,
            silenced(model, found, kept),
            inputs,
            than=f"the full one does with the units of {', '.join(widths)} silent",
            mend="on their way to the next layer units must not be added to other values, nor may 0 become something "
            "else, and forward() must take sizes from tensors: mend that, or name the layer in skip",
        )
        return narrow

    def _widths(self, model: nn.Module) -> dict[str, int]:
        """How many units remain in each layer and direction of the recurrent layers that lose some."""
        from torch import nn

        found = {name: module for name, module in model.named_modules() if isinstance(module, nn.RNNBase)}
        if not found:
            cells = sorted({type(m).__name__ for m in model.modules() if isinstance(m, nn.RNNCellBase)})
            raise NothingToDo(
                f"{self.kind}: the net itself carries the state of {', '.join(cells)} from step to step, so that "
                "nothing tells what else reads it; use nn.RNN, nn.LSTM or nn.GRU instead"
                if cells
                else f"{self.kind}: the net has no nn.RNN, nn.LSTM or nn.GRU; use prune-channels instead"
            )
        widths = {}
        for name in chosen(self.kind, list(found), self.only, self.skip):
            layer, step = found[name], self.round_to or 1
            if layer.proj_size:
                raise CompressionError(
                    f"{self.kind}: {name} has projections (proj_size is {layer.proj_size}), behind which its units "
                    f"are mixed; build it without, or name {name} in skip"
                )
            left = layer.hidden_size - int(self.ratio * layer.hidden_size + 1e-9)  # 0.3 * 10 is 2.9999...
            width = max(left - left % step, step)
            if width < layer.hidden_size:
                widths[name] = width
        if not widths:
            raise NothingToDo(
                f"{self.kind}: nothing was pruned: no recurrent layer can give {self.ratio:.0%} of its units and keep "
                f"a multiple of {self.round_to or 1}; lower round_to, or leave this pass out"
            )
        return widths

    def _check_untied(self, model: nn.Module, found: Sequence[Units]) -> None:
        """Raises CompressionError where a weight to be cut has a second name, under which it would stay whole."""
        names: dict[str, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(str(id(parameter)), []).append(name)
        tied = {name: together for together in names.values() if len(together) > 1 for name in together}
        for units in found:
            for part in units.parts:
                if part.tensor in tied:
                    raise CompressionError(
                        f"{self.kind}: {' and '.join(tied[part.tensor])} are one tied weight, which would have to lose "
                        f"the same units at each place; name {units.layer} in skip"
                    )

    def _scores(self, model: nn.Module, found: Sequence[Units]) -> dict[str, torch.Tensor]:
        """The importance of each unit of each layer, by its number."""
        import torch

        random = torch.Generator().manual_seed(self.seed)
        scores = {}
        for units in found:
            count = units_of(model.get_submodule(units.layer))
            if self.importance == "random":
                scores[units.layer] = torch.rand(count, generator=random)
                continue
            score = torch.zeros(count, dtype=torch.float64)
            for part in units.parts:
                values = tensor(model, part.tensor).detach().double()
                add_to_units(score, part, values.abs() ** int(self.importance[1]))
            scores[units.layer] = score
        return scores


def _best(scores: torch.Tensor, layer: Any, width: int) -> torch.Tensor:
    """True at the numbers of the `width` highest scores of each layer and direction; of equals the first remain."""
    import torch

    blocks = scores.view(-1, layer.hidden_size)
    order = torch.argsort(blocks, dim=1, descending=True, stable=True)[:, :width]
    return torch.zeros_like(blocks, dtype=torch.bool).scatter_(1, order, value=True).flatten()


def _loss_changes(model: nn.Module, found: Sequence[Units], task: Task) -> dict[str, torch.Tensor]:
    """The squared sum of gradient times weight over the columns that read a unit, summed over examples.

    The sum is the slope of the loss as the unit is turned down for all its readers at once; behind the rows that
    write it, a saturated gate would hide what it does. Examples go one by one: over many, slopes of either sign cancel.
    """
    import torch

    read = {units.layer: [part for part in units.parts if part.axis == 1] for units in found}
    weights = {part.tensor: tensor(model, part.tensor) for parts in read.values() for part in parts}
    scores = {name: torch.zeros(units_of(model.get_submodule(name)), dtype=torch.float64) for name in read}
    with trainable(model):
        for loss in losses(model, task):
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
            products = {
                name: (gradient * weights[name].detach()).double()
                for name, gradient in zip(weights, gradients, strict=True)
            }
            for name, parts in read.items():
                slope = torch.zeros_like(scores[name])
                for part in parts:
                    add_to_units(slope, part, products[part.tensor])
                scores[name] += slope**2
    return scores
