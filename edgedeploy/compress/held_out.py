"""Training watched on data that it does not learn from, so that it can stop in time and keep its best epoch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgedeploy.task import Split


def held_out_loss(
    model: nn.Module, split: Split, measure: Callable[[Any, torch.Tensor], torch.Tensor], batch_size: int
) -> float:
    """The mean loss of the net, as it stands in eval mode, over a split; batches weigh by their size."""
    import torch

    training = model.training
    model.eval()
    total = 0.0
    with torch.no_grad():
        for places in torch.split(torch.arange(len(split)), batch_size):
            chosen = places.numpy()
            output = model(*(torch.from_numpy(array[chosen]) for array in split.inputs))
            total += float(measure(output, torch.from_numpy(split.targets[chosen]))) * len(chosen)
    model.train(training)
    return total / len(split)


class Best:
    """The net, and what is trained beside it, as they were in the epoch with the least loss on held-out data."""

    def __init__(self, model: nn.Module, more: Sequence[nn.Parameter]) -> None:
        self._model = model
        self._more = more
        self._loss = math.inf
        self._kept: Any = None
        self.epochs_since = 0

    def note(self, loss: float) -> None:
        """Keep the net where the loss is less than ever before, else count one more epoch since."""
        if loss < self._loss:
            self._loss = loss
            self.epochs_since = 0
            self._kept = copy.deepcopy((self._model.state_dict(), [one.detach() for one in self._more]))
        else:
            self.epochs_since += 1

    def restore(self) -> None:
        """Put the best epoch's values back."""
        import torch

        if self._kept is None:
            return
        state, more = self._kept
        self._model.load_state_dict(state)
        with torch.no_grad():
            for parameter, value in zip(self._more, more, strict=True):
                parameter.copy_(value)
