"""What each layer bears: it alone is pruned, rate by rate, and the loss says what the net lost by that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgedeploy.compress.findings import PrunedAlone
from edgedeploy.compress.scores import score
from edgedeploy.compress.weights import chosen_weights

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgedeploy.task import Split, Task

RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""The rates of a scan, as shares of a layer's weights, where none are asked for."""


def scan(
    model: nn.Module,
    task: Task,
    rates: Sequence[float] = RATES,
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    split: Split | None = None,
) -> tuple[PrunedAlone, ...]:
    """What the net, left as it is, loses when one layer alone loses the share `rate` of its weights, the smallest.

    One record for each layer and rate, in their order; no training comes between. After Li et al., Pruning filters for
    efficient convnets, arXiv:1608.08710, section 3.2, for single weights. It is judged on the calibration split, or on
    `split`. Raises ValueError for a rate outside [0, 1), CompressionError where `only` or `skip` names nothing,
    NothingToDo where the net has no layer with weights.
    """
    wrong = next((rate for rate in rates if not 0 <= rate < 1), None)
    if wrong is not None:
        raise ValueError(f"rates hold {wrong}; each must be at least 0 and below 1")
    names = layers(model, "sensitivity", only, skip)
    judged = task.calibration if split is None else split
    before = score(model, task, judged)
    found = []
    for name in names:
        for rate in rates:
            with _pruned(model.get_parameter(name), rate):
                now = score(model, task, judged)
            found.append(PrunedAlone(name, rate, now.loss - before.loss, before.metric - now.metric))
    return tuple(found)


def layers(model: nn.Module, kind: str, only: Sequence[str], skip: Sequence[str]) -> list[str]:
    """The names of the weights to prune. Raises CompressionError, led by `kind`, NothingToDo where there are none."""
    return list(chosen_weights(kind, model, only, skip, "to prune"))


def largest(weight: torch.Tensor, sparsity: float) -> torch.Tensor:
    """A mask of the weight's shape, False for the share `sparsity` of smallest magnitude; one at least stays."""
    import torch

    count = min(round(sparsity * weight.numel()), weight.numel() - 1)
    keep = torch.ones(weight.numel(), dtype=torch.bool)
    # By rank, not by threshold: equal magnitudes would otherwise all go or all stay.
    keep[torch.argsort(weight.detach().abs().flatten(), stable=True)[:count]] = False
    return keep.view_as(weight)


def rates_under(found: Sequence[PrunedAlone], threshold: float) -> dict[str, float]:
    """For each layer of a scan the highest rate up to which the loss never rises by more than the threshold, else 0."""
    best: dict[str, float] = {}
    closed = set()
    for record in sorted(found, key=lambda record: record.sparsity):
        best.setdefault(record.layer, 0.0)
        if record.loss_rise > threshold:
            closed.add(record.layer)
        elif record.layer not in closed:
            best[record.layer] = record.sparsity
    return best


@contextmanager
def _pruned(weight: nn.Parameter, sparsity: float) -> Iterator[None]:
    """The weight with its zeros within the block, and as it was after it."""
    import torch

    before = weight.detach().clone()
    with torch.no_grad():
        weight.masked_fill_(~largest(weight, sparsity), 0.0)
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(before)
