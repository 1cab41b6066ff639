"""Weight sharing: few values for all weights of a layer, which shows in the packed file, not in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from edgedeploy.compress import limits
from edgedeploy.compress.codebook import Init, clustered
from edgedeploy.compress.fold_batch_norm import foldable
from edgedeploy.compress.held import hold, masks_of, share
from edgedeploy.compress.weights import chosen_weights, weights
from edgedeploy.errors import CompressionError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgedeploy.task import Task


@dataclass(frozen=True, slots=True)
class ShareWeights:
    """Give the weights of each layer at most `clusters` values, or those of all layers together (`per` "net").

    Storage only: the exported file is as large and as fast as before, and packs smaller. Zeros stay zeros and take no
    part. A later fine-tune moves the values, each along the mean gradient of its weights, and keeps them shared.
    `init`, `iterations`, `seed` and `rate_weight` are those of `clustered`. `biases` also gives all that is learnt
    besides, biases, normalisation and positions, `bias_clusters` values in all. `only` and `skip` name layers or
    weights and touch those alone, not the biases.
    """

    kind: ClassVar[str] = "share-weights"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch",)

    clusters: int = 16
    init: Init = "linear"
    iterations: int = 1000
    per: Literal["layer", "net"] = "layer"
    biases: bool = False
    bias_clusters: int = 16
    rate_weight: float = 0.0
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        limits.at_least(self, clusters=1, bias_clusters=1, iterations=1, seed=0)
        limits.one_of(self, init=get_args(Init), per=("layer", "net"))
        limits.not_negative(self, "rate_weight")

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Share the weights in place and hold them so.

        Raises CompressionError where there is nothing to share, or where batch normalisation would undo it.
        """
        names = list(chosen_weights(self.kind, model, self.only, self.skip, "to share in"))
        self._refuse_foldable(model, task, names)
        shared = {name: model.get_parameter(name).detach() for name in names}
        # Exact zeros of an earlier build come without masks; that they are zeros is worth more than any value.
        hold(model, {name: value != 0 for name, value in shared.items() if bool((value == 0).any())})
        if self.per == "net":
            share(model, self._labels(model, shared, self.clusters), across=True)
        else:
            share(model, {n: self._labels(model, {n: value}, self.clusters)[n] for n, value in shared.items()})
        if self.biases:
            layers = {id(weight) for _, weight, _ in weights(model)}
            rest = {
                name: parameter.detach()
                for name, parameter in model.named_parameters()
                if id(parameter) not in layers and parameter.is_floating_point()
            }
            if rest:
                share(model, self._labels(model, rest, self.bias_clusters), across=True)
        assert all(len(set(value[value != 0].tolist())) <= self.clusters for value in shared.values())
        return model

    def _refuse_foldable(self, model: nn.Module, task: Task, names: Sequence[str]) -> None:
        import torch

        called = {module: name for name, module in model.named_modules()}
        for layer, norm in foldable(model.eval(), tuple(torch.from_numpy(array) for array in task.example)):
            if any(name.rpartition(".")[0] == called[layer] for name in names):
                raise CompressionError(
                    f"{self.kind}: exporting folds {called[norm]} into {called[layer]} with a factor for each channel, "
                    "so that its values would not stay few; put fold-batch-norm first, or skip this layer"
                )

    def _labels(self, model: nn.Module, values: Mapping[str, torch.Tensor], clusters: int) -> dict[str, torch.Tensor]:
        """One codebook for all of `values`, -1 where a weight is held at zero."""
        import torch

        masks = masks_of(model)
        free = {name: masks.get(name, torch.ones_like(value, dtype=torch.bool)) for name, value in values.items()}
        together = torch.cat([value[free[name]] for name, value in values.items()])
        numbers = clustered(together, clusters, self.init, self.iterations, self.seed, self.rate_weight)
        parts = torch.split(numbers, [int(free[name].sum()) for name in values])
        labels = {}
        for name, part in zip(values, parts, strict=True):
            labels[name] = torch.full(values[name].shape, -1)
            labels[name][free[name]] = part
        return labels
