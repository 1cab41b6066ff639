"""Hashed weights: a hash of each weight's place says which of few real values it is, as HashedNets have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgedeploy.compress import limits
from edgedeploy.compress.held import share
from edgedeploy.compress.training import Training, reproducible, train
from edgedeploy.compress.weights import chosen_weights, weights

if TYPE_CHECKING:
    from torch import nn

    from edgedeploy.task import Task


@dataclass(frozen=True, slots=True)
class HashWeights(Training):
    """Train with `ratio` times as many real values a layer as it has weights; each starts as the mean of its weights.

    Chen et al., HashedNets, arXiv:1504.04788, without their second hash, of signs. Which value a weight takes follows
    from `seed` and its place alone, so that a store of real values would need no indices. There is no such store here:
    an exported file spells every weight out and saves neither bytes nor time, and as hashing leaves no order behind,
    packing saves little. It tells how many values a net needs. "adamw" wants a higher learning rate than without, as
    the steps of a value's weights are averaged and those that differ in sign cancel. Zeros that are held take no part;
    `only` and `skip` name layers or weights.
    """

    kind: ClassVar[str] = "hash-weights"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch",)

    ratio: float = 0.125
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        Training.__post_init__(self)  # super() does not find its class once slots have made another
        limits.share(self, "ratio")

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Share by hash and train, in place. Raises CompressionError where nothing can be hashed or training fails."""
        import torch

        names = chosen_weights(self.kind, model, self.only, self.skip, "to hash")
        labels = {}
        for number, (name, weight, _) in enumerate(weights(model)):
            if name in names:
                buckets = max(1, round(self.ratio * weight.numel()))
                labels[name] = torch.from_numpy(hashed(weight.numel(), buckets, self.seed, number)).view_as(weight)
        share(model, labels)
        with reproducible(self):
            train(model, task, self)
        return model


def hashed(places: int, buckets: int, seed: int, layer: int) -> np.ndarray:
    """A bucket from 0 on for each place, by the mixing function of SplitMix64 (Steele et al., OOPSLA 2014)."""
    golden = 0x9E3779B97F4A7C15
    start = (golden * (seed + 1) + (layer << 40)) % 2**64
    mixed = np.arange(places, dtype=np.uint64) + np.uint64(start)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: np.ndarray = ((mixed ^ (mixed >> np.uint64(31))) % np.uint64(buckets)).astype(np.int64)
    return found
