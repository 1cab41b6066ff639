"""How much the loss would change without a part of the net, to first order, from gradients on the calibration split."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgedeploy.compress.training import task_loss

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgedeploy.task import Task

_EXAMPLES = 128


@contextmanager
def trainable(model: nn.Module) -> Iterator[None]:
    """Let gradients flow to frozen parameters too, for the while, and add them up in the same order everywhere."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # another number adds up in another order, and might rank differently
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    try:
        for name in frozen:
            model.get_parameter(name).requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(threads)
        for name in frozen:
            model.get_parameter(name).requires_grad_(False)


def losses(model: nn.Module, task: Task) -> Iterator[torch.Tensor]:
    """The loss of one example of the calibration split after the other, 128 at most, spread evenly over it."""
    import torch

    measure = task_loss(task)
    split = task.calibration
    for place in split.places(_EXAMPLES):
        inputs = [torch.from_numpy(array[place : place + 1]) for array in split.inputs]
        yield measure(model(*inputs), torch.from_numpy(split.targets[place : place + 1]))


def set_gradients(model: nn.Module, task: Task) -> None:
    """Give each parameter as its gradient the root mean square of its gradients over single examples.

    The mean itself is next to nothing once a net is trained, whatever single examples would lose.
    """
    import torch

    squares = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    count = 0
    for loss in losses(model, task):
        model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        count += 1
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                squares[name] += parameter.grad**2
    for name, parameter in model.named_parameters():
        parameter.grad = (squares[name] / count).sqrt()
