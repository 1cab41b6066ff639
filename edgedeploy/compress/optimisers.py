"""How the optimiser steps and how its learning rate moves, as a pass's settings ask for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgedeploy.compress import limits

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgedeploy.compress.training import Training

OPTIMISERS = ("adamw", "adam", "sgd")

SCHEDULES: Mapping[str, tuple[str, ...]] = {
    "cosine": (),
    "constant": (),
    "exponential": ("decay",),
    "step": ("decay", "decay_every"),
    "plateau": ("decay", "patience"),
}
"""Each schedule of the learning rate, and the settings that it needs; to another they are a mistake."""

MOMENTUM = 0.9
_FOR_SGD = ("momentum", "nesterov")
_LEAST: Mapping[str, int] = {"decay_every": 1, "patience": 0}


def check(settings: Training) -> None:
    """Raise ValueError where optimiser, schedule and the settings that belong to them do not go together."""
    limits.one_of(settings, optimiser=OPTIMISERS, schedule=tuple(SCHEDULES))
    for name in _FOR_SGD:
        if settings.optimiser != "sgd" and getattr(settings, name) is not None:
            raise ValueError(f"{name} is given, but {settings.optimiser} has none; leave it out, or take sgd")
    if settings.momentum is not None and not 0 <= settings.momentum < 1:
        raise ValueError(f"momentum is {settings.momentum}; it must be from 0 to below 1")
    if settings.nesterov and settings.momentum == 0:
        raise ValueError("nesterov is true, but momentum is 0; it must be above 0, or nesterov false")
    needed = SCHEDULES[settings.schedule]
    for name in ("decay", *_LEAST):
        value = getattr(settings, name)
        if name in needed and value is None:
            raise ValueError(f"{name} is missing; the schedule {settings.schedule} needs it")
        if name not in needed and value is not None:
            raise ValueError(f"{name} is {value}, but the schedule {settings.schedule} has no use for it; leave it out")
    limits.at_least(settings, **_LEAST)
    limits.share(settings, "decay")


def optimiser_of(parameters: Sequence[nn.Parameter], settings: Training) -> torch.optim.Optimizer:
    """The optimiser; biases and normalisation, to which decay only does harm, go without it."""
    import torch

    decayed = [parameter for parameter in parameters if parameter.ndim >= 2]
    plain = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if settings.optimiser == "sgd":
        momentum = MOMENTUM if settings.momentum is None else settings.momentum
        nesterov = momentum > 0 if settings.nesterov is None else settings.nesterov
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=momentum, nesterov=nesterov)
    kind = torch.optim.AdamW if settings.optimiser == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.learning_rate)


class Schedule:
    """The learning rate over `steps` steps: told of each step, and after each epoch of the loss on held-out data."""

    def __init__(self, optimiser: torch.optim.Optimizer, settings: Training, steps: int) -> None:
        from torch.optim import lr_scheduler

        decay = settings.decay or 1.0
        self._by_step: Any = None
        self._by_epoch: Any = None
        self._by_loss: Any = None
        if settings.schedule == "cosine":
            self._by_step = lr_scheduler.LambdaLR(optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))
        elif settings.schedule == "exponential":
            self._by_epoch = lr_scheduler.ExponentialLR(optimiser, decay)
        elif settings.schedule == "step":
            self._by_epoch = lr_scheduler.StepLR(optimiser, settings.decay_every or 1, decay)
        elif settings.schedule == "plateau":
            self._by_loss = lr_scheduler.ReduceLROnPlateau(
                optimiser, factor=decay, patience=settings.patience or 0, threshold=0.0
            )

    def after_step(self) -> None:
        """Move on by one step."""
        if self._by_step is not None:
            self._by_step.step()

    def after_epoch(self, held_out: float | None) -> None:
        """Move on by one epoch; `held_out` is None where the loss was not watched."""
        if self._by_epoch is not None:
            self._by_epoch.step()
        if self._by_loss is not None and held_out is not None:
            self._by_loss.step(held_out)
