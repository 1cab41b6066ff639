"""Training with a penalty that drives weights, or whole output channels, to exact zero."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from edgedeploy.compress import limits
from edgedeploy.compress.hard_concrete import Gates
from edgedeploy.compress.held import hold
from edgedeploy.compress.ranking import input_axes, refuse_empty
from edgedeploy.compress.training import Training, reproducible, train
from edgedeploy.compress.weights import Group, output_groups
from edgedeploy.errors import CompressionError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgedeploy.task import Task

_PENALTIES = ("l1", "group-lasso", "l0")


@dataclass(frozen=True, slots=True)
class Sparsify(Training):
    """Train with `strength` times a penalty on the weights beside the loss, and hold the zeros that it leaves.

    "l1" is the sum of the magnitudes: after each step every weight moves towards zero, by `strength` times what the
    optimiser steps for a gradient of 1, and stops there. "group-lasso" does so to the norm of all that makes one output
    channel, its bias included and weighed by the root of its size, so that channels vanish whole: an output of a
    linear layer or convolution, a hidden unit of a recurrent layer with the rows of all its gates (Yuan and Lin, 2006;
    Wen et al., arXiv:1608.03665). Both are proximal steps (Parikh and Boyd, Proximal Algorithms, 2014, section 6.5;
    for adaptive optimisers Yun et al., arXiv:2007.03863). "l0" is the expected share of weights that stay, each behind
    a gate that is trained with it (Louizos et al., arXiv:1712.01312). How many zeros a strength gives depends on the
    net, the learning rate and the number of steps. Zeros of earlier passes stay.
    """

    kind: ClassVar[str] = "sparsify"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch",)

    penalty: Literal["l1", "group-lasso", "l0"] = "l1"
    strength: float = field(kw_only=True)
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        Training.__post_init__(self)  # super() does not find its class once slots have made another
        limits.one_of(self, penalty=_PENALTIES)
        limits.above_0(self, "strength")

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Train the net in place and hold its zeros.

        Raises CompressionError where there is nothing to sparsify, no weight or all weights of a layer became zero,
        `only` or `skip` names nothing, or the training diverges.
        """
        names = list(input_axes(self.kind, model, self.only, self.skip))
        before = _zeros(model, names)
        with reproducible(self):
            if self.penalty == "l0":
                masks = self._train_gates(model, task, names)
            else:
                masks = self._train_shrinking(model, task, names)
        refuse_empty(self.kind, f"strength {self.strength}", model, masks)
        hold(model, masks)
        if _zeros(model, names) == before:
            raise CompressionError(
                f"{self.kind}: strength {self.strength} made no weight zero; raise it, learning_rate or epochs"
            )
        return model

    def _train_gates(self, model: nn.Module, task: Task, names: Sequence[str]) -> dict[str, torch.Tensor]:
        import torch

        gates = Gates(model, names, self.seed)
        train(
            model,
            task,
            self,
            around_pass=lambda _: gates.around_pass(self.strength),
            more_parameters=tuple(gates.parameters.values()),
        )
        settled = {name: gates.settled(name) for name in names}
        with torch.no_grad():
            for name, gate in settled.items():
                model.get_parameter(name).mul_(gate)
        return {name: gate > 0 for name, gate in settled.items()}

    def _train_shrinking(self, model: nn.Module, task: Task, names: Sequence[str]) -> dict[str, torch.Tensor]:
        groups = output_groups(model, names) if self.penalty == "group-lasso" else None

        with _steps() as steps:

            def shrink(_: float) -> None:
                if groups is None:
                    _shrink_weights(model, names, self.strength, steps)
                else:
                    _shrink_groups(model, groups, self.strength, steps)

            train(model, task, self, after_step=shrink)
        masks = {name: model.get_parameter(name).detach() != 0 for name in names}
        for group in groups or ():
            for part in group:
                if part.name not in masks:  # a bias may be zero by itself: those alone are held whose channel is gone
                    alive = _norms(group, [model.get_parameter(other.name) for other in group]) > 0
                    masks[part.name] = alive.repeat(part.gates)
        return masks


def _zeros(model: nn.Module, names: Sequence[str]) -> int:
    return sum(int((model.get_parameter(name) == 0).sum()) for name in names)


class _Steps:
    """What the optimiser's last step was like: it goes `rate` over `denominator` for a gradient of 1."""

    rate = 0.0
    _optimiser: torch.optim.Optimizer | None = None

    def note(self, optimiser: torch.optim.Optimizer, _args: Any, _kwargs: Mapping[str, Any]) -> None:
        self._optimiser = optimiser
        self.rate = float(optimiser.param_groups[0]["lr"])

    def denominator(self, parameter: torch.Tensor) -> torch.Tensor:
        """For each number of a parameter: 1, or for Adam and its kin the root of the mean square of its gradients."""
        import torch

        assert self._optimiser is not None
        state = self._optimiser.state.get(parameter, {})
        if "exp_avg_sq" not in state:
            return torch.ones_like(parameter)
        group = self._optimiser.param_groups[0]
        seen = 1.0 - group["betas"][1] ** float(state["step"])
        squares: torch.Tensor = state["exp_avg_sq"]
        root: torch.Tensor = (squares / seen).sqrt() + group["eps"]
        return root


@contextmanager
def _steps() -> Iterator[_Steps]:
    """Within the block, what each step of the optimiser was like, whichever it is and whatever schedule it follows."""
    from torch.optim import optimizer

    steps = _Steps()
    handle = optimizer.register_optimizer_step_post_hook(steps.note)
    try:
        yield steps
    finally:
        handle.remove()


def _shrink_weights(model: nn.Module, names: Sequence[str], strength: float, steps: _Steps) -> None:
    """Soft thresholding: sign(w) max(|w| - by, 0)."""
    import torch

    with torch.no_grad():
        for name in names:
            weight = model.get_parameter(name)
            by = strength * steps.rate / steps.denominator(weight)
            weight.sub_(torch.minimum(weight.abs(), by).copysign(weight))


def _shrink_groups(model: nn.Module, groups: Sequence[Group], strength: float, steps: _Steps) -> None:
    """Block soft thresholding of each output: w max(1 - by sqrt(n) / |w|, 0), n numbers of norm |w|.

    Where denominators differ inside an output there is no closed form; the root of their mean square stands for them.
    """
    import torch

    with torch.no_grad():
        for group in groups:
            parameters = [model.get_parameter(part.name) for part in group]
            norms = _norms(group, parameters)
            size = sum(parameter.numel() for parameter in parameters) / len(norms)
            denominators = _norms(group, [steps.denominator(parameter) for parameter in parameters]) / size**0.5
            limits = strength * steps.rate * size**0.5 / denominators
            left = 1.0 - limits / norms.clamp(min=torch.finfo(norms.dtype).tiny)
            for part, parameter in zip(group, parameters, strict=True):
                part.scale_(parameter, torch.where(norms > limits, left, 0.0))


def _norms(group: Group, values: Sequence[torch.Tensor]) -> torch.Tensor:
    """Of all that the values hold for each output of the group."""
    import torch

    squares = [part.squares(value.detach()) for part, value in zip(group, values, strict=True)]
    return torch.stack(squares).sum(0).sqrt()
