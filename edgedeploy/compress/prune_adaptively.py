"""Pruning by an accuracy budget: each layer loses as many weights as the net can do without, and no rate is guessed."""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgedeploy.compress import limits
from edgedeploy.compress.findings import PrunedAlone, note, remember_sensitivity
from edgedeploy.compress.held import hold
from edgedeploy.compress.scores import Score, drop_with_error, folds, part, score, without
from edgedeploy.compress.sensitivity import RATES, largest, layers, rates_under, scan
from edgedeploy.compress.training import Training, reproducible, train
from edgedeploy.errors import CompressionError

if TYPE_CHECKING:
    from torch import nn

    from edgedeploy.task import Split, Task

# Fewer examples than this cannot tell a drop of a hundredth from chance.
_ENOUGH_EXAMPLES = 200
_HELD_OUT = 5  # one part in so many of the training split is judged on where the calibration split is smaller


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneAdaptively(Training):
    """Zero as many weights of each layer as the metric allows, by magnitude, with training between the cuts.

    It starts from a scan of each layer alone: every layer gets the highest rate up to which the loss rises by no more
    than a threshold common to all, and bisection finds the highest threshold at which the net, so pruned and not yet
    trained, keeps the budget. Then layers lose the share `step` of the weights that they have
    left, together as long as that goes well, else in halves and at last one by one: after each cut the net trains, as
    the fields of training say, and where it breaks the budget, the cut is given back, with the weights from before it.
    A layer is done when it cannot bear another cut, or has `max_sparsity`.

    The budget is kept where the drop of the metric against the net as it came, and one standard error of it over the
    pairs of examples, are within `max_drop` together: so many cuts are judged on the same examples that the drop alone
    would flatter. For a metric of one number for them all there is no such error, and the drop alone counts.

    The judge is the calibration split, where it holds 200 examples; else every fifth example of the training split,
    classes spread evenly, on which the net then is not trained. `only` and `skip` name layers or weights.
    """

    kind: ClassVar[str] = "prune-adaptively"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch",)

    max_drop: float
    step: float = 0.2
    max_sparsity: float = 0.98
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        Training.__post_init__(self)
        limits.not_negative(self, "max_drop")
        limits.share(self, "step", "max_sparsity")

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Return the pruned and trained net, its zeros held, with the scan to be had from `findings.sensitivity_of`.

        Raises CompressionError where no cut at all is within the budget or the training diverges, NothingToDo where
        the net has no layer to prune.
        """
        names = layers(model, self.kind, self.only, self.skip)
        judge, seen, what = self._judge(task)
        budget = _Budget(task, judge, score(model, task, judge), self.max_drop)
        found = scan(model, task, RATES, only=self.only, skip=self.skip, split=judge)
        before = {name: sparsity(model, name) for name in names}
        net = self._started(model, found, budget, seen)
        net = self._pushed(net, _least_sensitive_first(names, found), budget, seen)
        after = {name: sparsity(net, name) for name in names}
        if after == before:
            raise CompressionError(
                f"{self.kind}: no layer can lose any weights without {task.metric_name} dropping by more than "
                f"{self.max_drop:g} on {what}; raise max_drop, train for more epochs, or leave this pass out"
            )
        remember_sensitivity(net, found)
        note(net, f"{self.kind}: {_told(net, after)}; judged on {what}")
        return net

    def _judge(self, task: Task) -> tuple[Split, Task, str]:
        """What is judged on, the task with what is trained on, and what to call the former."""
        if len(task.calibration) >= _ENOUGH_EXAMPLES or len(task.train) < _HELD_OUT:
            return task.calibration, task, f"the {len(task.calibration)} examples of the calibration split"
        places = folds(task.train.targets, _HELD_OUT, self.seed)[0]
        rest = dataclasses.replace(task, train=without(task.train, places))
        return part(task.train, places), rest, f"{len(places)} examples held out of the training split"

    def _started(self, model: nn.Module, found: Sequence[PrunedAlone], budget: _Budget, task: Task) -> nn.Module:
        """The net pruned as far as it bears at once, and trained where that does it good."""
        thresholds = sorted({record.loss_rise for record in found if math.isfinite(record.loss_rise)})
        best, low, high = model, 0, len(thresholds)
        while low < high:
            middle = (low + high) // 2
            net = _cut(model, rates_under(found, thresholds[middle]))
            if budget.holds(net):
                best, low = net, middle + 1
            else:
                high = middle
        if best is model:
            return model
        trained = self._trained(best, task)
        return trained if budget.holds(trained) else best

    def _pushed(self, net: nn.Module, names: Sequence[str], budget: _Budget, task: Task) -> nn.Module:
        """The net with each layer pruned further until its next cut would break the budget."""
        still_open = list(names)
        while still_open:
            groups, still_open = [still_open], []
            while groups:
                group = groups.pop(0)
                further = {name: min(_after(sparsity(net, name), self.step), self.max_sparsity) for name in group}
                further = {name: rate for name, rate in further.items() if _takes_some(net, name, rate)}
                if not further:
                    continue
                candidate = self._trained(_cut(net, further), task)
                if budget.holds(candidate):
                    net = candidate
                    still_open += further
                elif len(further) > 1:
                    ordered, half = list(further), (len(further) + 1) // 2
                    groups[:0] = [ordered[:half], ordered[half:]]
        return net

    def _trained(self, net: nn.Module, task: Task) -> nn.Module:
        net = copy.deepcopy(net)
        with reproducible(self):
            train(net, task, self)
        return net


@dataclass(frozen=True, slots=True, eq=False)
class _Budget:
    """The examples that a net is judged on, how the untouched net does on them, and what may be lost of that."""

    task: Task
    judge: Split
    before: Score
    max_drop: float

    def holds(self, net: nn.Module) -> bool:
        drop, error = drop_with_error(self.before, score(net, self.task, self.judge))
        return drop + error <= self.max_drop + 1e-9  # the budget itself is within the budget


def sparsity(model: nn.Module, name: str) -> float:
    """The share of zeros in the parameter of this name."""
    weight = model.get_parameter(name)
    return float((weight == 0).double().mean())


def _after(rate: float, step: float) -> float:
    return rate + step * (1 - rate)


def _takes_some(net: nn.Module, name: str, rate: float) -> bool:
    """Whether another weight becomes zero at this rate."""
    weight = net.get_parameter(name)
    return bool((weight[~largest(weight, rate)] != 0).any())


def _cut(model: nn.Module, rates: Mapping[str, float]) -> nn.Module:
    """A copy of the net with the smallest weights of these layers held at zero."""
    net = copy.deepcopy(model)
    hold(net, {name: largest(net.get_parameter(name), rate) for name, rate in rates.items() if rate > 0})
    return net


def _least_sensitive_first(names: Sequence[str], found: Sequence[PrunedAlone]) -> list[str]:
    rises = {name: statistics.fmean(r.loss_rise for r in found if r.layer == name) for name in names}
    return sorted(names, key=rises.__getitem__)


def _told(net: nn.Module, rates: Mapping[str, float]) -> str:
    """How sparse the net became, and where least and most."""
    sizes = {name: net.get_parameter(name).numel() for name in rates}
    overall = sum(rates[name] * sizes[name] for name in rates) / sum(sizes.values())
    least, most = min(rates, key=rates.__getitem__), max(rates, key=rates.__getitem__)
    return f"{overall:.0%} of the weights are zero, from {rates[least]:.0%} of {least} to {rates[most]:.0%} of {most}"
