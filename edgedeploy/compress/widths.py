"""Which channels of a net are one thing, which of them matter least, and how they are cut out together."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from edgedeploy.compress.graph import layers_of_fixed_width, splits_into_groups
from edgedeploy.compress.saliency import set_gradients, trainable
from edgedeploy.compress.weights import chosen

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgedeploy.task import Task


def layers_with_channels(model: nn.Module, only: Sequence[str], skip: Sequence[str], kind: str) -> list[str]:
    """The names of the convolutions and linear layers that may lose channels. Raises CompressionError, see `chosen`.

    Depthwise convolutions have none of their own: theirs are those of the layer before.
    """
    return chosen(kind, [name for name, layer in _layers(model) if not _is_depthwise(layer)], only, skip)


class Widths:
    """The channels of a net in groups that must go together, as torch-pruning's dependency graph finds them."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        names: Sequence[str],
        *,
        importance: str,
        scope: str,
        round_to: int,
        seed: int,
    ) -> None:
        """Only layers of `names` lose channels; see `layers_with_channels`, and `PruneChannels` for the settings."""
        import torch
        from torch import nn

        self.model, self.task = model, task
        self.importance, self.scope, self.round_to = importance, scope, round_to
        self._random = torch.Generator().manual_seed(seed)
        self._first: dict[nn.Module, int] = {}
        inputs = tuple(torch.from_numpy(array) for array in task.example)
        kept = [layer for name, layer in _layers(model) if name not in names and not _is_depthwise(layer)]
        # Packed attention mixes its heads up when it loses channels.
        kept += [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
        with trainable(model):  # the dependencies are traced through autograd
            self._pruner = pruner(model, inputs, [*kept, *layers_of_fixed_width(model, inputs)])

    def reaches(self) -> set[str]:
        """The names of all modules that would lose channels or inputs."""
        names = {module: name for name, module in self.model.named_modules()}
        return {names[part.target.module] for group in self._groups() for part, _ in group if part.layer in names}

    def cut(self, ratio: float) -> None:
        """Cut in place until the share `ratio` of the channels that there were at first is gone."""
        import torch
        from torch import nn

        graph = self._pruner.DG
        with trainable(self.model):
            if self.importance == "gradient":
                set_gradients(self.model, self.task)
            groups = [(group, scores) for group in self._groups() if (scores := self._scores(group)) is not None]
            for parameter in self.model.parameters():
                parameter.grad = None
            for group, _ in groups:
                self._first.setdefault(_root(group), _width(group, self._pruner))
            for (group, scores), keep in zip(groups, self._kept(groups, ratio), strict=True):
                gone = torch.argsort(scores, stable=True)[: len(scores) - keep]
                blocks = _width(group, self._pruner) // len(scores)
                places = sorted(int(place) + len(scores) * block for place in gone for block in range(blocks))
                part = graph.get_pruning_group(_root(group), group[0].dep.handler, places)
                if places and graph.check_pruning_group(part):
                    part.prune()
        for module in self.model.modules():
            if isinstance(module, nn.Transformer) and isinstance(module.encoder, nn.TransformerEncoder):
                module.d_model = module.encoder.layers[0].linear1.in_features  # it compares its inputs with it

    def _groups(self) -> Iterator[Any]:
        from torch import nn
        from torch.nn.modules.conv import _ConvNd

        pruner = self._pruner
        return iter(list(pruner.DG.get_all_groups(pruner.ignored_layers, (_ConvNd, nn.Linear))))

    def _scores(self, group: Any) -> torch.Tensor | None:
        """One number for each channel, or for each that blocks such as heads must lose alike; None for no weights."""
        import torch
        import torch_pruning

        scores: torch.Tensor | None
        if self.importance == "random":
            scores = torch.rand(_width(group, self._pruner), generator=self._random)
        elif self.importance == "gradient":
            scores = torch_pruning.importance.GroupTaylorImportance()(group)
        else:
            power = int(self.importance[1])
            scores = torch_pruning.importance.GroupMagnitudeImportance(p=power)(group)
        if scores is None:
            return None
        found: torch.Tensor = scores.detach().view(self._pruner._get_channel_groups(group), -1).mean(0)
        return found

    def _kept(self, groups: Sequence[tuple[Any, torch.Tensor]], ratio: float) -> list[int]:
        """How many of each group's scores stay."""
        import torch

        wanted = []
        first = [self._first[_root(group)] * len(scores) // _width(group, self._pruner) for group, scores in groups]
        if self.scope == "uniform":
            wanted = [int(count * (1 - ratio)) for count in first]
        elif groups:
            together = torch.cat([scores for _, scores in groups])
            best = torch.zeros(len(together), dtype=torch.bool)
            best[torch.argsort(together, stable=True)[len(together) - int(sum(first) * (1 - ratio)) :]] = True
            wanted = [int(part.sum()) for part in torch.split(best, [len(scores) for _, scores in groups])]
        return [self._rounded(count, group, len(scores)) for count, (group, scores) in zip(wanted, groups, strict=True)]

    def _rounded(self, count: int, group: Any, there: int) -> int:
        blocks = _width(group, self._pruner) // there
        unit = self.round_to // math.gcd(self.round_to, blocks)
        return min(there, max(count // unit, 1) * unit)


def pruner(model: nn.Module, inputs: tuple[torch.Tensor, ...], ignored: Sequence[nn.Module] = ()) -> Any:
    """torch-pruning's view of the net: `DG`, and which layers are in blocks that must lose the same channels."""
    import torch
    import torch_pruning

    with warnings.catch_warnings(), torch.enable_grad():
        # Positional embeddings and the like: they are found and handled, which is what the warning says.
        warnings.filterwarnings("ignore", message="Unwrapped parameters detected", category=UserWarning)
        return torch_pruning.pruner.BasePruner(
            model,
            inputs,
            importance=None,
            ignored_layers=list(ignored),
            # Both are filled by the pruner: a default argument of its own would be shared by all pruners.
            in_channel_groups={},
            out_channel_groups=splits_into_groups(model, inputs),
        )


def _root(group: Any) -> nn.Module:
    module: nn.Module = group[0].dep.target.module
    return module


def _width(group: Any, pruner: Any) -> int:
    width: int = pruner.DG.get_out_channels(_root(group))
    return width


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    return ((name, module) for name, module in model.named_modules() if isinstance(module, (_ConvNd, nn.Linear)))


def _is_depthwise(layer: nn.Module) -> bool:
    groups = getattr(layer, "groups", 1)
    return bool(groups > 1 and groups == layer.out_channels == layer.in_channels)
