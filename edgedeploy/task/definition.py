"""What a task is, once its file has been read and checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedeploy.errors import PlanError

if TYPE_CHECKING:
    import torch
    from torch import nn

Arrays = tuple[np.ndarray, ...]
"""One array per input or output of the net; the first axis of each counts the examples."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """One part of the data; `len(split)` is its number of examples."""

    inputs: Arrays
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def places(self, count: int) -> np.ndarray:
        """The places of `count` examples, or of all where there are fewer, evenly spread over the split."""
        return np.unique(np.linspace(0, len(self) - 1, min(len(self), count)).astype(np.int64))

    def spread(self, count: int) -> Arrays:
        """The inputs of the examples at these `places`."""
        chosen = self.places(count)
        return tuple(array[chosen] for array in self.inputs)


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A net, its data and its metric, as `load_task` found them in a task file.

    `model` builds the net without weights, or takes it from `source`, a file that others made. `example` has the
    batch axis first. `metric(outputs, targets)` gives one score per example, shape (n,), or one number for them all;
    higher is better. `loss` is None where the default serves: cross-entropy for integer targets, else the mean squared
    error. `teacher` gives a net to learn from, with its weights, `student` a smaller one; None where the file has none.
    `digest` names all of this, the weights included; see `task_digest`.
    """

    folder: Path
    name: str
    digest: str
    model: Callable[[], nn.Module]
    weights: Path | None
    example: Arrays
    train: Split
    calibration: Split
    selection: Split
    test: Split
    metric: Callable[[Arrays, np.ndarray], np.ndarray | float]
    metric_name: str
    loss: Callable[[Any, torch.Tensor], torch.Tensor] | None
    labels: tuple[str, ...]
    preprocessing: str
    layout: str | None
    source: Path | None = None
    teacher: Callable[[], nn.Module] | None = None
    student: Callable[[], nn.Module] | None = None

    def load_model(self) -> nn.Module:
        """Build the net, give it its weights, and return it in eval mode.

        Without a weights file the factory's own start is kept, the same at each call. Raises PlanError when the
        factory or the forward pass raises, when the weights are missing, refused or do not fit, and when the
        output on the example is not finite.
        """
        import torch

        from edgedeploy.task.weights import read_weights

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = self.model()
        if self.weights is not None:
            read_weights(self.weights, into=model)
        model.eval()
        for index, output in enumerate(predict(model, self.example)):
            if not np.isfinite(output).all():
                source = f"with the weights of {self.weights}" if self.weights else "with its fresh weights"
                raise PlanError(
                    f"{self.name}: output {index} of the net {source} holds NaN or infinity on example(); "
                    "check the weights, and the range of the inputs"
                )
        return model


def predict(model: nn.Module, inputs: Arrays, batch_size: int = 256) -> Arrays:
    """Run the net as it stands over all examples, without gradients; one array per output.

    Raises PlanError when the net gives something other than a tensor or a tuple of tensors whose first axis is
    the batch. What the net itself raises is passed on: it is the caller who knows whose fault it is.
    """
    import torch

    chunks: list[Arrays] = []
    with torch.no_grad():
        for start in range(0, len(inputs[0]), batch_size):
            batch = tuple(torch.as_tensor(array[start : start + batch_size]) for array in inputs)
            output = model(*batch)
            outputs = tuple(output) if isinstance(output, (tuple, list)) else (output,)
            for index, one in enumerate(outputs):
                if not isinstance(one, torch.Tensor):
                    raise PlanError(
                        f"output {index} of the net is a {type(one).__name__}; "
                        "forward() must return a tensor or a tuple of tensors"
                    )
                if one.ndim == 0 or len(one) != len(batch[0]):
                    raise PlanError(
                        f"output {index} of the net has shape {tuple(one.shape)} for a batch of {len(batch[0])}; "
                        "the first axis of every output must be the batch"
                    )
            chunks.append(tuple(one.cpu().numpy() for one in outputs))
    return tuple(np.concatenate(parts) for parts in zip(*chunks, strict=True))
