"""What passes found out about a net on their way, kept with it for whoever shows how a variant was made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

# Plain attributes, as in `held`: they are copied and pickled with the net, and are in no exported graph.
_NOTES = "_edgedeploy_notes"
_SENSITIVITY = "_edgedeploy_sensitivity"


@dataclass(frozen=True, slots=True)
class PrunedAlone:
    """What a net loses when one layer alone has this share of zeros.

    `layer` is the name of its weight; `loss_rise` is in the unit of the task's loss, `drop` in that of its metric,
    positive where it became worse. Both are against the net as it stood.
    """

    layer: str
    sparsity: float
    loss_rise: float
    drop: float


def note(model: nn.Module, text: str) -> None:
    """Add a line for people."""
    setattr(model, _NOTES, (*notes_of(model), text))


def notes_of(model: nn.Module) -> tuple[str, ...]:
    """The lines in the order in which they were added."""
    found: tuple[str, ...] = getattr(model, _NOTES, ())
    return found


def remember_sensitivity(model: nn.Module, scan: tuple[PrunedAlone, ...]) -> None:
    """Keep a scan with the net; a later one replaces it."""
    setattr(model, _SENSITIVITY, scan)


def sensitivity_of(model: nn.Module) -> tuple[PrunedAlone, ...]:
    """The last scan of the net's layers, empty where no pass made one."""
    found: tuple[PrunedAlone, ...] = getattr(model, _SENSITIVITY, ())
    return found


def carry(model: nn.Module, before: nn.Module) -> None:
    """Give `model`, which a pass made from `before`, what was found out until then and the pass did not take along."""
    if model is before:
        return
    known = notes_of(before)
    if notes_of(model)[: len(known)] != known:
        setattr(model, _NOTES, (*known, *notes_of(model)))
    if not sensitivity_of(model):
        remember_sensitivity(model, sensitivity_of(before))
