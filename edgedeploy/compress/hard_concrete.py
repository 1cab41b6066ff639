"""Gates that a net learns to close: a count of weights has no gradient, the chance that a gate is open has one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

# Louizos et al., arXiv:1712.01312, section 4: temperature, and how far the gate is stretched beyond 0 and 1.
_BETA, _GAMMA, _ZETA = 2 / 3, -0.1, 1.1
_START = math.log(0.9 / 0.1)  # nine of ten open: the net is trained already
# An adaptive optimiser steps as far as its learning rate, which suits weights of a tenth; gates have some units to go.
_SPEED = 50.0


class Gates:
    """One hard concrete gate for each weight of the named parameters (arXiv:1712.01312, equations 10 and 11)."""

    def __init__(self, model: nn.Module, names: Sequence[str], seed: int) -> None:
        import torch
        from torch import nn

        self._model = model
        self._generator = torch.Generator().manual_seed(seed)
        # Flat, so that no optimiser takes them for weights that decay.
        self.parameters = {
            name: nn.Parameter(torch.full((model.get_parameter(name).numel(),), _START / _SPEED)) for name in names
        }

    @contextmanager
    def around_pass(self, strength: float) -> Iterator[None]:
        """The weights times a draw of their gates within the block; gradients for weights and gates once it ends.

        Those of the gates are of the loss plus `strength` times the share of the gates that are expected to be open
        (equation 12).
        """
        import torch

        behind = {name: self._model.get_parameter(name).detach().clone() for name in self.parameters}
        drawn = {name: self._draw(name) if self._model.training else self.settled(name) for name in self.parameters}
        with torch.no_grad():
            for name, gate in drawn.items():
                self._model.get_parameter(name).mul_(gate)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in behind.items():
                    self._model.get_parameter(name).copy_(weight)
        if self._model.training:
            self._give_gradients(drawn, behind, strength)

    def settled(self, name: str) -> torch.Tensor:
        """The gates of a parameter, of its shape, as they are without noise (equation 13)."""
        gate = (self.parameters[name].detach() * _SPEED).sigmoid() * (_ZETA - _GAMMA) + _GAMMA
        return gate.clamp(0.0, 1.0).view(self._model.get_parameter(name).shape)

    def _draw(self, name: str) -> torch.Tensor:
        import torch

        parameter = self.parameters[name]
        uniform = torch.rand(parameter.shape, generator=self._generator).clamp(1e-6, 1 - 1e-6)
        with torch.enable_grad():
            noisy = ((uniform.logit() + parameter * _SPEED) / _BETA).sigmoid() * (_ZETA - _GAMMA) + _GAMMA
            return noisy.clamp(0.0, 1.0).view(self._model.get_parameter(name).shape)

    def _give_gradients(self, drawn: dict[str, torch.Tensor], behind: dict[str, torch.Tensor], strength: float) -> None:
        import torch

        total = sum(parameter.numel() for parameter in self.parameters.values())
        for name, parameter in self.parameters.items():
            weight = self._model.get_parameter(name)
            open_share = (parameter * _SPEED - _BETA * math.log(-_GAMMA / _ZETA)).sigmoid().sum() / total
            (of_penalty,) = torch.autograd.grad(strength * open_share, parameter)
            parameter.grad = of_penalty
            if weight.grad is None:
                continue
            (of_loss,) = torch.autograd.grad(drawn[name], parameter, weight.grad * behind[name])
            parameter.grad += of_loss
            weight.grad.mul_(drawn[name].detach())
