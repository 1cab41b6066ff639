"""Lottery tickets: prune a little, go back to an early state of what is left, train again, and so on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, get_args

from edgedeploy.compress import limits
from edgedeploy.compress.held import hold, masks_of
from edgedeploy.compress.importance import IMPORTANCES, Importance, scores
from edgedeploy.compress.ranking import Scope, blocks_of, input_axes, masks_by_share, refuse_empty
from edgedeploy.compress.training import Training, reproducible, train
from edgedeploy.errors import CompressionError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgedeploy.task import Task


@dataclass(frozen=True, slots=True)
class PruneIteratively(Training):
    """Prune the same share of what is left in each of `rounds`, until `sparsity` is reached; rewind and train between.

    After each pruning the weights that are left go back to the start that the task's factory gives them for `seed`,
    trained for `rewind_epochs` (0: the very start, Frankle and Carbin, arXiv:1803.03635; more: Frankle et al.,
    arXiv:1912.05671), and are trained for `epochs` from there. The net as it comes decides the first pruning and is
    then given up; with the seed that it was trained with, the start is its own. Each round costs a whole training.
    Zeros of earlier passes stay zeros and count. `importance` and `scope` are those of prune-weights.
    """

    kind: ClassVar[str] = "prune-iteratively"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch",)

    sparsity: float = field(kw_only=True)
    rounds: int = 5
    rewind_epochs: int = 0
    importance: Importance = "l1"
    scope: Scope = "global"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        Training.__post_init__(self)  # super() does not find its class once slots have made another
        limits.share(self, "sparsity")
        limits.at_least(self, rounds=1, rewind_epochs=0)
        limits.one_of(self, importance=IMPORTANCES, scope=get_args(Scope))

    def sparsity_after(self, number: int) -> float:
        """The share of zeros after round `number`, counted from 1: each takes the same share of what was left."""
        left: float = (1.0 - self.sparsity) ** (number / self.rounds)
        return 1.0 - left

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Prune and train the net in place.

        Raises CompressionError where its layers are no longer those of the factory, there is nothing to prune, a layer
        would lose all its weights, `only` or `skip` names nothing, or the training diverges.
        """
        axes = input_axes(self.kind, model, self.only, self.skip)
        start = self._start(model, task)
        for number in range(1, self.rounds + 1):
            share = self.sparsity_after(number)
            ranked = scores(self.importance, model, task, list(axes), self.seed)
            masks = masks_by_share(blocks_of(model, ranked, axes), share, self.scope)
            refuse_empty(self.kind, f"sparsity {share:.4g}", model, masks)
            model.load_state_dict(start)
            hold(model, masks)
            with reproducible(self):
                train(model, task, self)
        return model

    def _start(self, model: nn.Module, task: Task) -> dict[str, torch.Tensor]:
        """The state to rewind to, for the net as it is now."""
        with reproducible(self):
            fresh = task.model()
            self._refuse_other_shapes(model, fresh)
            if self.rewind_epochs:
                # Under the zeros of earlier passes, as the rounds will be.
                hold(fresh, masks_of(model))
                train(fresh, task, dataclasses.replace(self, epochs=self.rewind_epochs))
        return {name: value.detach().clone() for name, value in fresh.state_dict().items()}

    def _refuse_other_shapes(self, model: nn.Module, fresh: nn.Module) -> None:
        now = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        first = {name: tuple(value.shape) for name, value in fresh.state_dict().items()}
        if now == first:
            return
        name = next(name for name in (*first, *now) if now.get(name) != first.get(name))
        was, became = first.get(name, "not there"), now.get(name, "gone")
        raise CompressionError(
            f"{self.kind}: it rewinds to the start that the task's model() gives, but an earlier pass changed the net: "
            f"{name} was {was} and is {became}; put this pass first"
        )
