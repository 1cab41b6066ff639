"""Few values that stand for many: one-dimensional k-means, with the least error or the fewest bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Init = Literal["linear", "density", "random"]


def clustered(
    values: torch.Tensor, clusters: int, init: Init, iterations: int, seed: int, rate_weight: float = 0.0
) -> torch.Tensor:
    """For each of `values` (one axis) the number of its cluster, from 0 on in the order of the clusters' means.

    Lloyd's k-means until nothing moves, or `iterations` times; in one dimension the clusters are intervals, so that
    a round costs one search in the sorted values. Where it begins is that of Han et al., Deep Compression,
    arXiv:1510.00149, section 3.2: "linear" spreads the first centres evenly over the range, "density" evenly over
    the ranks, "random" draws them from the values. A cluster that gets nothing is dropped. Where there are no more
    distinct values than `clusters` and bits cost nothing, each keeps its own.

    With `rate_weight` a value goes where error^2 / mean(value^2) + rate_weight * bits is least, bits = -log2 of the
    cluster's share of the values: entropy-constrained quantisation, Chou, Lookabaugh and Gray, IEEE Trans. ASSP 37(1),
    1989.
    """
    import torch

    values = values.detach().double()
    distinct: torch.Tensor
    numbers: torch.Tensor
    distinct, numbers = torch.unique(values, return_inverse=True)
    if len(distinct) <= clusters and not rate_weight:
        return numbers
    ordered, order = torch.sort(values, stable=True)
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    price = rate_weight * float((ordered * ordered).mean())
    centres = torch.unique(_first(ordered, clusters, init, seed)).tolist()
    costs = [0.0] * len(centres)
    ends = torch.empty(0, dtype=torch.long)
    for _ in range(iterations):
        cuts = torch.searchsorted(ordered, ordered.new_tensor(_bounds(centres, costs)), right=True)
        before, ends = ends, torch.unique(torch.cat([cuts[cuts > 0], cuts.new_tensor([len(ordered)])]))
        if torch.equal(ends, before):
            break
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        counts = ends - starts
        centres = ((sums[ends] - sums[starts]) / counts).tolist()
        costs = (-price * torch.log2(counts / len(ordered))).tolist()
    labels = torch.empty(len(values), dtype=torch.long)
    labels[order] = torch.searchsorted(ends, torch.arange(len(values)), right=True)
    return labels


def _first(ordered: torch.Tensor, clusters: int, init: Init, seed: int) -> torch.Tensor:
    import torch

    if init == "linear":
        return torch.linspace(float(ordered[0]), float(ordered[-1]), clusters, dtype=torch.float64)
    if init == "density":
        return ordered[((torch.arange(clusters) + 0.5) * len(ordered) / clusters).long()]
    drawn = torch.randperm(len(ordered), generator=torch.Generator().manual_seed(seed))
    first: torch.Tensor = ordered[drawn[:clusters]]
    return first


def _bounds(centres: list[float], costs: list[float]) -> list[float]:
    """Between which values (x - centre)^2 + cost is least for one centre after the other, those it never is left out.

    The square of x is common to all, so that each is a line and the least of them their lower envelope.
    """
    kept: list[int] = []
    bounds: list[float] = []
    for new in range(len(centres)):
        while kept:
            old = kept[-1]
            apart = centres[new] - centres[old]
            bound = (centres[old] + centres[new]) / 2 + (costs[new] - costs[old]) / (2 * apart)
            if not bounds or bound > bounds[-1]:
                bounds.append(bound)
                break
            bounds.pop()
            kept.pop()
        kept.append(new)
    return bounds
