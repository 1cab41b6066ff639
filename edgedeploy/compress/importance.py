"""How much a net needs each of its weights, by the measures that the pruning passes offer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from edgedeploy.compress.held import masks_of
from edgedeploy.compress.saliency import trainable
from edgedeploy.compress.training import task_loss

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgedeploy.task import Task

Importance = Literal["l1", "l2", "gradient", "random", "lamp"]
"""See `scores`; a new one is a function in this file, a word here and a line in its table."""

Scores = Mapping[str, "torch.Tensor"]
"""Parameter name -> number for each of its weights, of its shape; those with the lowest go first."""

_EXAMPLES = 1024
_BATCH = 64


def scores(importance: Importance, model: nn.Module, task: Task, names: Sequence[str], seed: int = 0) -> Scores:
    """The importance of each weight of these parameters, 0 or above.

    "l1" is |w| and "l2" its square: they rank single weights alike, and blocks of them by their mean magnitude or
    their mean square. "gradient" is |w dL/dw|, what the loss would change by without the weight to first order
    (Molchanov et al., arXiv:1906.10771, equation 8, with the gradient summed before the product), over at most 1024
    examples spread over the training split. "random" draws from `seed`. "lamp" is w^2 over the sum of the squares
    in its layer that are not smaller (Lee et al., arXiv:2010.07611, equation 4), which lets layers be compared.
    """
    return _TABLE[importance](model, task, names, seed)


def _l1(model: nn.Module, _task: Task, names: Sequence[str], _seed: int) -> Scores:
    return {name: model.get_parameter(name).detach().abs() for name in names}


def _l2(model: nn.Module, _task: Task, names: Sequence[str], _seed: int) -> Scores:
    return {name: model.get_parameter(name).detach().square() for name in names}


def _gradient(model: nn.Module, task: Task, names: Sequence[str], _seed: int) -> Scores:
    import torch

    places = torch.from_numpy(task.train.places(_EXAMPLES))
    inputs = [torch.from_numpy(array) for array in task.train.inputs]
    targets = torch.from_numpy(task.train.targets)
    loss = task_loss(task)
    parameters = [model.get_parameter(name) for name in names]
    sums = [torch.zeros_like(parameter, requires_grad=False) for parameter in parameters]
    model.eval()
    with trainable(model):
        for chosen in torch.split(places, _BATCH):
            mean = loss(model(*(array[chosen] for array in inputs)), targets[chosen])
            found = torch.autograd.grad(mean, parameters, allow_unused=True)
            for total, gradient in zip(sums, found, strict=True):
                if gradient is not None:
                    total += gradient * len(chosen)
    return {
        name: (parameter.detach() * total).abs() for name, parameter, total in zip(names, parameters, sums, strict=True)
    }


def _random(model: nn.Module, _task: Task, names: Sequence[str], seed: int) -> Scores:
    import torch

    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(model.get_parameter(name).shape, generator=generator) for name in names}


def _lamp(model: nn.Module, _task: Task, names: Sequence[str], _seed: int) -> Scores:
    import torch

    masks = masks_of(model)
    found = {}
    for name in names:
        weight = model.get_parameter(name).detach()
        squares = weight.double().square().flatten()
        if name in masks:
            squares = squares * masks[name].flatten()
        order = torch.argsort(squares, stable=True)
        not_smaller = squares[order].flip(0).cumsum(0).flip(0)
        score = torch.empty_like(squares)
        score[order] = squares[order] / not_smaller.clamp(min=torch.finfo(torch.float64).tiny)
        found[name] = score.view_as(weight)
    return found


_TABLE: Mapping[Importance, Callable[[nn.Module, Task, Sequence[str], int], Scores]] = {
    "l1": _l1,
    "l2": _l2,
    "gradient": _gradient,
    "random": _random,
    "lamp": _lamp,
}
IMPORTANCES: tuple[Importance, ...] = get_args(Importance)
