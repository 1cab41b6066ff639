"""Trained low-bit weights: they leave training on a grid of few levels, as floats that a file can hold as integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from edgedeploy.compress import limits
from edgedeploy.compress.grids import LayerGrid, Scheme
from edgedeploy.compress.held import masks_of
from edgedeploy.compress.training import Training, reproducible, train
from edgedeploy.compress.weights import chosen, weights
from edgedeploy.errors import NothingToDo

if TYPE_CHECKING:
    from torch import nn

    from edgedeploy.task import Task

_SCHEMES = ("uniform", "binary", "ternary", "fixed-point")
_WITH_BITS = ("uniform", "fixed-point")


@dataclass(frozen=True, slots=True)
class QuantiseWeights(Training):
    """Train with the weights of convolutions, linear, recurrent and attention layers on a grid of few levels.

    The forward pass sees the points of the grid, the optimiser moves the numbers behind them (straight-through
    estimator: Courbariaux et al., BinaryConnect, arXiv:1511.00363). "uniform" has 2^bits - 1 levels around zero,
    "binary" two and "ternary" three, each with a step for every output channel, or for the whole tensor where `per`
    says so. "fixed-point" is an integer of `bits` bits times a power of two, one for the tensor. `skip` names layers,
    or single weights, that stay as they are. Biases stay float, and no pass may follow.
    """

    kind: ClassVar[str] = "quantise-weights"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch",)

    scheme: Scheme = "uniform"
    bits: int | None = None
    per: Literal["channel", "tensor"] = "channel"
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        Training.__post_init__(self)  # super() does not find its class once slots have made another
        limits.one_of(self, scheme=_SCHEMES, per=("channel", "tensor"))
        if self.scheme in _WITH_BITS and self.bits is None:
            raise ValueError(f"bits is missing; {self.scheme} needs it, from 2 to 8")
        if self.scheme not in _WITH_BITS and self.bits is not None:
            raise ValueError(f"bits is {self.bits}; {self.scheme} has a number of levels of its own, so leave it out")
        if self.bits is not None and not 2 <= self.bits <= 8:
            raise ValueError(f"bits is {self.bits}; it must be from 2 to 8")

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Train the net in place and leave its weights on their grids; zeros that are held stay zeros.

        Raises NothingToDo where there is nothing to quantise, CompressionError where `skip` names nothing or the
        training diverges.
        """
        import torch

        grids = self._grids(model)
        with reproducible(self):
            train(model, task, self, around_pass=lambda _: _on_grid(model, grids))
        with torch.no_grad():
            for name, grid in grids.items():
                parameter = model.get_parameter(name)
                parameter.copy_(grid.nearest(parameter))
        return model

    def _grids(self, model: nn.Module) -> dict[str, LayerGrid]:
        found = {name: axis for name, _, axis in weights(model)}
        if not found:
            raise NothingToDo(
                f"{self.kind}: there is nothing to quantise: the net has no convolution, linear or recurrent layer"
            )
        left = chosen(self.kind, list(found), (), self.skip)
        masks = masks_of(model)
        one_step = self.per == "tensor" or self.scheme == "fixed-point"
        return {
            name: LayerGrid(self.scheme, self.bits, None if one_step else axis, masks.get(name))
            for name, axis in found.items()
            if name in left
        }


@contextmanager
def _on_grid(model: nn.Module, grids: Mapping[str, LayerGrid]) -> Iterator[None]:
    """The weights on their grids within the block, and as they were after it."""
    import torch

    behind = {name: model.get_parameter(name).detach().clone() for name in grids}
    with torch.no_grad():
        for name, grid in grids.items():
            model.get_parameter(name).copy_(grid.nearest(behind[name]))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, values in behind.items():
                model.get_parameter(name).copy_(values)
