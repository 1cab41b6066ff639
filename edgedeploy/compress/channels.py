"""Structured pruning: whole channels go, so that the net that remains is an ordinary, narrower one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from edgedeploy.compress.graph import layers_before_outputs, splits_into_groups
from edgedeploy.compress.held import masks_of
from edgedeploy.errors import CompressionError

if TYPE_CHECKING:
    from torch import nn

    from edgedeploy.task import Task


@dataclass(frozen=True, slots=True)
class PruneChannels:
    """Remove the share `ratio` of the channels of convolutions and linear layers, the least important first.

    What depends on a channel goes with it: the next layers' inputs, normalisation, the other branch of a
    residual. The layers that make the outputs keep their width, and recurrent layers are left whole.
    Widths that remain are multiples of `round_to`, for kernels work in blocks of 8 or 16 and an odd width may be
    slower than the full one. "uniform" takes the share from each layer, "global" wherever it matters least.
    """

    kind: ClassVar[str] = "prune-channels"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch", "torch-pruning")

    ratio: float
    round_to: int = 1
    importance: Literal["l1", "l2"] = "l2"
    scope: Literal["uniform", "global"] = "uniform"

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(f"ratio is {self.ratio}; it must lie between 0 and 1, both excluded")
        if self.round_to < 1:
            raise ValueError(f"round_to is {self.round_to}; it must be at least 1")
        for name, known in (("importance", ("l1", "l2")), ("scope", ("uniform", "global"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {' or '.join(known)}")

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Cut the channels out in place. Raises CompressionError when there is nothing that it can cut."""
        import torch
        import torch_pruning

        if masks_of(model):
            raise CompressionError(
                f"{self.kind}: after prune-weights it would cut zeros away with the channels, "
                "and the sparsity asked for would be lost; put it first"
            )
        model.eval()
        before = _count_parameters(model)
        frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        inputs = tuple(torch.from_numpy(array) for array in task.example)
        for name in frozen:
            model.get_parameter(name).requires_grad_(True)  # the dependencies are traced through autograd
        try:
            with _quiet(), torch.enable_grad():
                pruner = torch_pruning.pruner.BasePruner(
                    model,
                    inputs,
                    importance=torch_pruning.importance.GroupMagnitudeImportance(p=int(self.importance[1])),
                    global_pruning=self.scope == "global",
                    pruning_ratio=self.ratio,
                    ignored_layers=layers_before_outputs(model, inputs),
                    round_to=self.round_to,
                    # Both are filled by the pruner: a default argument of its own would be shared by all pruners.
                    in_channel_groups={},
                    out_channel_groups=splits_into_groups(model, inputs),
                )
                pruner.step()
        finally:
            for name in frozen:
                model.get_parameter(name).requires_grad_(False)
        if _count_parameters(model) == before:
            raise CompressionError(f"{self.kind}: {self._nothing_pruned(model)}")
        return model

    def _nothing_pruned(self, model: nn.Module) -> str:
        from torch import nn

        recurrent = sorted({type(m).__name__ for m in model.modules() if isinstance(m, (nn.RNNBase, nn.RNNCellBase))})
        if recurrent:
            return (
                f"nothing was pruned: the channels of {', '.join(recurrent)} are coupled over the gates and are left "
                "whole, and no other layer can give any; use prune-weights for this net"
            )
        return (
            f"nothing was pruned: no layer inside the net can give {self.ratio:.0%} of its channels "
            f"and keep a multiple of {self.round_to}; lower round_to, or leave this pass out"
        )


def _count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # Positional embeddings and the like: they are found and handled, which is what the warning says.
        warnings.filterwarnings("ignore", message="Unwrapped parameters detected", category=UserWarning)
        yield
