"""A matrix as a product of two thin ones: which rank each gets, and what the two are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, eq=False)
class Decomposition:
    """The singular value decomposition of a matrix (rows, columns) in float64; `values` fall."""

    left: torch.Tensor
    values: torch.Tensor
    right: torch.Tensor

    @property
    def full(self) -> int:
        """How many numbers the matrix has."""
        return len(self.left) * self.right.shape[1]

    @property
    def each(self) -> int:
        """How many numbers each rank costs."""
        return len(self.left) + self.right.shape[1]

    def saves(self, rank: int) -> bool:
        """Whether two matrices of this rank hold fewer numbers than the one."""
        return rank * self.each < self.full

    def factors(self, rank: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """(rows, rank) and (rank, columns), the singular values shared evenly, so that both train at one pace.

        No product of this rank comes closer to the matrix in the sum of squares (Eckart and Young, Psychometrika 1,
        1936).
        """
        root = self.values[:rank].sqrt()
        left, right = self.left[:, :rank] * root, root[:, None] * self.right[:rank]
        # It comes column by column. What is laid out so, LiteRT's converter copies; and it tells constants by
        # the addresses of those copies, and takes one for another where an address was used twice.
        return left.to(dtype).contiguous(), right.to(dtype).contiguous()


def decomposed(matrix: torch.Tensor) -> Decomposition:
    """The same on every call: one thread, because with several the sums come out in another order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return Decomposition(*torch.linalg.svd(matrix.detach().double(), full_matrices=False))
    finally:
        torch.set_num_threads(threads)


def ranks_by_energy(matrices: Mapping[str, Decomposition], energy: float) -> dict[str, int]:
    """For each matrix the smallest rank whose squared singular values make up the share `energy` of all."""
    import torch

    found = {}
    for name, matrix in matrices.items():
        kept = torch.cumsum(matrix.values**2, 0)
        found[name] = min(int((kept < energy * kept[-1]).sum()) + 1, len(kept))
    return found


def ranks_by_budget(matrices: Mapping[str, Decomposition], budget: float) -> dict[str, int]:
    """For each matrix the highest rank that holds no more than the share `budget` of its numbers, but at least 1."""
    return {name: max(1, int(budget * matrix.full / matrix.each + 1e-9)) for name, matrix in matrices.items()}


def ranks_by_common_budget(matrices: Mapping[str, Decomposition], budget: float) -> dict[str, int]:
    """Ranks that together hold no more than the share `budget` of all numbers, but at least 1 each.

    The next singular value taken is the one that keeps most of its own matrix's energy for the numbers that it costs.
    """
    found = dict.fromkeys(matrices, 1)
    left = budget * sum(matrix.full for matrix in matrices.values()) - sum(m.each for m in matrices.values())
    gains = sorted(
        (-float(value**2 / (matrix.values**2).sum() / matrix.each), name)
        for name, matrix in matrices.items()
        for value in matrix.values[1:]
    )
    for _, name in gains:  # values fall, so that each matrix's come in their own order
        if left >= matrices[name].each:
            left -= matrices[name].each
            found[name] += 1
    return found
