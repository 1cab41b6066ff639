"""Pruning while the net trains: it fills in for each few weights before the next ones go, and so bears more zeros."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from edgedeploy.compress import limits
from edgedeploy.compress.held import hold
from edgedeploy.compress.importance import scores
from edgedeploy.compress.ranking import Scope, blocks_of, input_axes, masks_by_share, refuse_empty
from edgedeploy.compress.training import Training, reproducible, train

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgedeploy.task import Task


@dataclass(frozen=True, slots=True)
class PruneGradually(Training):
    """Train while the share of zeros grows from `initial_sparsity` to `sparsity`, and hold them afterwards.

    It grows between the shares `begin` and `end` of the training along a cubic curve, fast at first (Zhu and Gupta,
    arXiv:1710.01878, equation 1), in jumps `every` so many steps; what remains of the training recovers. The weights
    that go are those of the least magnitude ("l1"), or of the least |w dL/dw| summed over the steps since the last
    jump ("gradient"), over all layers ("global") or in each ("layer"). What is zero stays so. Biases and
    normalisation are left alone.
    """

    kind: ClassVar[str] = "prune-gradually"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch",)

    sparsity: float = field(kw_only=True)
    initial_sparsity: float = 0.0
    begin: float = 0.0
    end: float = 0.7
    every: int = 10
    importance: Literal["l1", "gradient"] = "l1"
    scope: Scope = "global"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        Training.__post_init__(self)  # super() does not find its class once slots have made another
        limits.share(self, "sparsity")
        if not 0 <= self.initial_sparsity < self.sparsity:
            raise ValueError(f"initial_sparsity is {self.initial_sparsity}; it must be at least 0 and below sparsity")
        if not 0 <= self.begin < 1:
            raise ValueError(f"begin is {self.begin}; it must be at least 0 and below 1")
        if not self.begin < self.end <= 1:
            raise ValueError(f"end is {self.end}; it must be above begin and at most 1")
        limits.at_least(self, every=1)
        limits.one_of(self, importance=("l1", "gradient"), scope=get_args(Scope))

    def sparsity_at(self, progress: float) -> float:
        """The share of zeros once the share `progress` of the training is done."""
        if progress < self.begin:
            return 0.0
        left = 1.0 - min((progress - self.begin) / (self.end - self.begin), 1.0)
        return self.sparsity + (self.initial_sparsity - self.sparsity) * left**3

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Train the net in place. Raises CompressionError.

        That is where there is nothing to prune, a layer would lose all its weights, `only` or `skip` names nothing, or
        the training diverges.
        """
        pruning = _Pruning(self, model, task)
        with reproducible(self):
            train(model, task, self, after_step=pruning.after_step, settled=self.end)
        pruning.prune_to(self.sparsity)  # reached long ago unless the last jump fell behind the last step
        return model


class _Pruning:
    """What is known of a net while it is pruned: its weights, and how much each mattered since the last jump."""

    def __init__(self, settings: PruneGradually, model: nn.Module, task: Task) -> None:
        self._settings, self._model, self._task = settings, model, task
        self._axes = input_axes(settings.kind, model, settings.only, settings.skip)
        self._steps = 0
        self._share = 0.0
        self._sums: dict[str, torch.Tensor] = {}

    def after_step(self, progress: float) -> None:
        settings = self._settings
        if self._share == settings.sparsity:
            return
        if settings.importance == "gradient":
            self._add_gradients()
        self._steps += 1
        if self._steps % settings.every == 0:
            self.prune_to(settings.sparsity_at(progress))

    def prune_to(self, share: float) -> None:
        """Take the share of zeros up to `share`; raises CompressionError where that empties a layer."""
        if share <= self._share:
            return
        masks = masks_by_share(blocks_of(self._model, self._scores(), self._axes), share, self._settings.scope)
        refuse_empty(self._settings.kind, f"sparsity {share:.4g}", self._model, masks)
        hold(self._model, masks)
        self._share = share
        self._sums = {}

    def _scores(self) -> Mapping[str, torch.Tensor]:
        return self._sums or scores("l1", self._model, self._task, list(self._axes))

    def _add_gradients(self) -> None:
        for name in self._axes:
            parameter = self._model.get_parameter(name)
            if parameter.grad is None:
                product = parameter.detach().abs() * 0.0
            else:
                product = (parameter.detach() * parameter.grad).abs()
            self._sums[name] = self._sums[name] + product if name in self._sums else product
