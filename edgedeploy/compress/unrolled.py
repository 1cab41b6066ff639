"""Recurrent layers whose matrices are products of thin ones, which torch's own cannot hold."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

Factors = tuple["torch.Tensor", "torch.Tensor"]


def linear(weight: torch.Tensor | Factors, bias: torch.Tensor | None) -> nn.Module:
    """A linear layer (out, in), or two in a row from factors (out, rank) and (rank, in), that holds copies."""
    from torch import nn

    if isinstance(weight, tuple):
        out, into = weight
        return nn.Sequential(linear(into, None), linear(out, bias))
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, dtype=weight.dtype)
    layer.weight = nn.Parameter(weight.detach().contiguous().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def projected(layer: nn.RNNBase, weights: Factors) -> nn.Module:
    """The recurrent layer behind a narrow linear one: `weights` stand for all rows of its first input weights.

    Those of the reverse direction come below those of the other. The layer itself stays one fused operator in ONNX.
    """
    made: nn.Module = _projected()(layer, *weights)
    return made


def unrolled(layer: nn.RNNBase, weights: Mapping[str, Factors]) -> nn.Module:
    """The same recurrent layer in plain steps, with factors in place of the weights that are named.

    It takes and gives what nn.RNN, nn.LSTM and nn.GRU do with three-dimensional tensors. What that costs: ONNX has no
    operator for it, so that the file holds every step by itself, as TFLite files do in any case (a GRU or an LSTM about
    18 nodes and 0.9 kB a step, layer and direction, a plain RNN half of that); the length becomes that of the example,
    and ONNX Runtime's fused kernel is given up.
    """
    made: nn.Module = _unrolled()(layer, weights)
    return made


@functools.cache
def _projected() -> Any:
    from torch import nn

    class Projected(nn.Module):
        """A linear layer without bias and the recurrent layer that reads it; takes and gives what that one does."""

        def __init__(self, layer: Any, out: torch.Tensor, into: torch.Tensor) -> None:
            super().__init__()
            self.project = linear(into, None)
            self.recurrent = layer
            layer.input_size = len(into)
            names = ["weight_ih_l0", "weight_ih_l0_reverse"][: 1 + layer.bidirectional]
            for name, part in zip(names, out.chunk(len(names)), strict=True):
                setattr(layer, name, nn.Parameter(part.clone()))
            layer._init_flat_weights()

        @property
        def hidden_size(self) -> int:
            return int(self.recurrent.hidden_size)

        @property
        def num_layers(self) -> int:
            return int(self.recurrent.num_layers)

        def flatten_parameters(self) -> None:
            self.recurrent.flatten_parameters()

        def forward(self, sequence: torch.Tensor, state: Any = None) -> Any:
            return self.recurrent(self.project(sequence), state)

    return Projected


@functools.cache
def _unrolled() -> Any:
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Unrolled(nn.Module):
        """Steps through the sequence with a linear layer, or two thin ones, in place of each weight."""

        def __init__(self, layer: Any, weights: Mapping[str, Factors]) -> None:
            super().__init__()
            self.mode, self.batch_first, self.dropout = layer.mode, layer.batch_first, layer.dropout
            self.hidden_size, self.num_layers = layer.hidden_size, layer.num_layers
            self.directions = 1 + layer.bidirectional
            self.inputs, self.states = nn.ModuleList(), nn.ModuleList()
            for names in layer._all_weights:
                held = {name.split("_l")[0]: weights.get(name, getattr(layer, name)) for name in names}
                self.inputs.append(linear(held["weight_ih"], held.get("bias_ih")))
                self.states.append(linear(held["weight_hh"], held.get("bias_hh")))

        def flatten_parameters(self) -> None:
            """Nothing to do: it is what nets call on torch's own layers."""

        def forward(self, sequence: torch.Tensor, state: Any = None) -> Any:
            if sequence.ndim != 3:
                raise ValueError(f"the sequence has {sequence.ndim} axes; it must have 3, the batch among them")
            axis = 1 if self.batch_first else 0
            examples = sequence.shape[1 - axis]
            if state is None:
                empty = sequence.new_zeros(len(self.inputs), examples, self.hidden_size)
                state = (empty, empty) if self.mode == "LSTM" else empty
            firsts = list(zip(*state, strict=True)) if self.mode == "LSTM" else [(one,) for one in state]
            lasts = []
            for start in range(0, len(self.inputs), self.directions):
                sides = []
                for block in range(start, start + self.directions):
                    steps = self.inputs[block](sequence).unbind(axis)
                    backward = block > start
                    outputs, last = self._run(steps[::-1] if backward else steps, self.states[block], firsts[block])
                    sides.append(torch.stack(outputs[::-1] if backward else outputs, dim=axis))
                    lasts.append(last)
                sequence = torch.cat(sides, dim=-1) if self.directions > 1 else sides[0]
                if start + self.directions < len(self.inputs):
                    sequence = F.dropout(sequence, self.dropout, self.training)
            found = tuple(torch.stack(states) for states in zip(*lasts, strict=True))
            return sequence, found if self.mode == "LSTM" else found[0]

        def _run(self, steps: Any, recurrent: nn.Module, state: tuple[torch.Tensor, ...]) -> Any:
            steps_of: dict[str, Callable[..., tuple[torch.Tensor, ...]]] = {"LSTM": _lstm_step, "GRU": _gru_step}
            step = steps_of.get(self.mode, self._plain_step)
            outputs = []
            for inputs in steps:
                state = step(inputs, recurrent(state[0]), *state)
                outputs.append(state[0])
            return outputs, state

        def _plain_step(self, inputs: torch.Tensor, states: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor]:
            total = inputs + states
            return (total.tanh() if self.mode == "RNN_TANH" else total.relu(),)

    return Unrolled


def _gru_step(inputs: torch.Tensor, states: torch.Tensor, before: torch.Tensor) -> tuple[torch.Tensor]:
    """Cho et al., arXiv:1406.1078, with the reset gate after the recurrent product, as torch and ONNX compute it."""
    reset_in, update_in, new_in = inputs.chunk(3, dim=-1)
    reset_state, update_state, new_state = states.chunk(3, dim=-1)
    update = (update_in + update_state).sigmoid()
    new = (new_in + (reset_in + reset_state).sigmoid() * new_state).tanh()
    return (new + update * (before - new),)


def _lstm_step(
    inputs: torch.Tensor, states: torch.Tensor, _: torch.Tensor, memory: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hochreiter and Schmidhuber, Neural Computation 9, 1997, with forget gates."""
    let_in, forget, new, let_out = (inputs + states).chunk(4, dim=-1)
    memory = forget.sigmoid() * memory + let_in.sigmoid() * new.tanh()
    return let_out.sigmoid() * memory.tanh(), memory
