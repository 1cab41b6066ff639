"""Unstructured pruning: single weights become zero, which shows in the archive and on the wire, not in time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from edgedeploy.compress import limits
from edgedeploy.compress.held import hold, masks_of
from edgedeploy.compress.importance import IMPORTANCES, Importance, scores
from edgedeploy.compress.ranking import (
    Blocks,
    Scope,
    blocks_of,
    input_axes,
    masks_by_pattern,
    masks_by_share,
    refuse_empty,
)
from edgedeploy.compress.weights import chosen
from edgedeploy.errors import CompressionError, NothingToDo

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgedeploy.task import Task

_KNOWN = {"unit": ("absolute", "std"), "importance": IMPORTANCES, "scope": ("global", "layer")}


@dataclass(frozen=True, slots=True)
class PruneWeights:
    """Zero weights of convolutions, linear, recurrent and attention layers, and hold them there in all later passes.

    Which ones is said by one of three: `sparsity` is the share to be zero, counted over all layers ("global") or in
    each ("layer"), the least important first (see `importance.scores`); `threshold` is the magnitude below which
    weights go, "absolute" or in standard deviations of what is left of the layer (Han et al., arXiv:1506.02626);
    `pattern` "N:M" lets the N most important of each M neighbours along the inputs stay (Mishra et al.,
    arXiv:2104.08378), and passes over layers whose inputs do not divide by M.

    `layers` gives shares of their own to layers, or single weights, which are then counted by themselves; alone, it
    leaves all others whole. With `block` above 1 so many neighbours along the inputs go or stay together, by their
    mean importance. There "l1" and "l2" differ; single weights they rank alike. Weights that are zero already are the
    first to go, so that pruning again to a higher share adds to the zeros. Biases and normalisation are left alone.
    """

    kind: ClassVar[str] = "prune-weights"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch",)

    sparsity: float | None = None
    threshold: float | None = None
    unit: Literal["absolute", "std"] = "absolute"
    importance: Importance = "l1"
    scope: Scope = "global"
    block: int = 1
    pattern: str = ""
    layers: Mapping[str, float] = field(default_factory=dict, hash=False)
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        limits.one_of(self, **_KNOWN)
        ways = (("sparsity", self.sparsity), ("threshold", self.threshold), ("pattern", self.pattern or None))
        given = [name for name, value in ways if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given; keep one of them")
        if not given and not self.layers:
            raise ValueError("sparsity, threshold or pattern is missing; give one of them, or shares in layers")
        limits.share(self, "sparsity")
        self._check_threshold()
        limits.at_least(self, block=1)
        self._check_pattern()
        for name, share in self.layers.items():
            if not 0 <= share < 1:
                raise ValueError(f"layers gives {name!r} {share}; a share must be at least 0 and below 1")
        limits.seed(self)

    def _check_threshold(self) -> None:
        if self.threshold is None:
            if self.unit != "absolute":
                raise ValueError(f"unit is {self.unit!r}; it is for a threshold, so leave it out")
            return
        limits.above_0(self, "threshold")
        if self.importance not in ("l1", "l2"):
            raise ValueError(
                f"importance is {self.importance!r}; a threshold is one of magnitudes: it must be l1 or l2"
            )

    def _check_pattern(self) -> None:
        if not self.pattern:
            return
        found = re.fullmatch(r"(\d{1,3}):(\d{1,3})", self.pattern)
        if not found or not 0 < int(found[1]) < int(found[2]):
            raise ValueError(
                f"pattern is {self.pattern!r}; it must be N:M, N of each M weights to stay, N below M, such as 2:4"
            )
        if self.block != 1 or self.layers:
            raise ValueError(f"{'layers' if self.layers else 'block'} does not go with pattern; leave it out")

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Zero the weights in place and hold them there.

        Raises CompressionError where there is nothing to prune, a layer would lose all its weights, `only`, `skip` or
        `layers` names nothing, or the pattern fits no layer.
        """
        axes = input_axes(self.kind, model, self.only, self.skip)
        own = self._own_shares(list(axes))
        ranked = scores(self.importance, model, task, list(axes), self.seed)
        blocks = blocks_of(model, ranked, axes, self.block)
        others = {name: one for name, one in blocks.items() if name not in own}
        masks = self._masks(model, others)
        for name, share in own.items():
            masks |= masks_by_share({name: blocks[name]}, share, "layer")
        refuse_empty(self.kind, self._asked(), model, masks)
        before = masks_of(model)
        hold(model, masks)
        assert all(bool((model.get_parameter(n)[~mask] == 0).all()) for n, mask in {**before, **masks}.items())
        return model

    def _own_shares(self, names: list[str]) -> dict[str, float]:
        """The share of each weight that `layers` names; the order of its entries makes no difference."""
        shares: dict[str, float] = {}
        for entry, share in self.layers.items():
            for name in chosen(f"{self.kind}: layers", names, (entry,), ()):
                if shares.setdefault(name, share) != share:
                    raise CompressionError(
                        f"{self.kind}: layers gives {name} two shares, {shares[name]} and {share}; "
                        "write its entries so that one alone names it"
                    )
        return shares

    def _masks(self, model: nn.Module, blocks: Mapping[str, Blocks]) -> dict[str, torch.Tensor]:
        if self.pattern:
            keep, of = map(int, self.pattern.split(":"))
            masks = masks_by_pattern(blocks, keep, of)
            if not masks:
                raise NothingToDo(
                    f"{self.kind}: pattern {self.pattern} fits no layer, for the inputs of none divide by {of}: "
                    f"{', '.join(f'{name} has {one.inputs}' for name, one in blocks.items())}; choose another M"
                )
            return masks
        if self.threshold is not None:
            return {
                name: self._above(one, model.get_parameter(name), masks_of(model).get(name))
                for name, one in blocks.items()
            }
        return masks_by_share(blocks, self.sparsity, self.scope) if self.sparsity is not None else {}

    def _above(self, blocks: Blocks, weight: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        assert self.threshold is not None
        left = weight.detach() if mask is None else weight.detach()[mask]
        limit = self.threshold * (float(left.std(correction=0)) if self.unit == "std" else 1.0)
        return blocks.spread(blocks.scores >= (limit if self.importance == "l1" else limit**2))

    def _asked(self) -> str:
        if self.threshold is not None:
            return f"threshold {self.threshold}"
        return f"sparsity {self.sparsity}" if self.sparsity is not None else "its share in layers"
