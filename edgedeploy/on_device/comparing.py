"""Whether a board computes what the host computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .runtimes import Array


def compare(batches: list[list[Array]], expected: list[Array], tolerance: float) -> tuple[float | None, str]:
    """Hold the board's outputs, one list per batch, against the host's.

    Returns the largest difference relative to the range of the host's output, over all outputs (None where there
    is no such number), and what is wrong with it, or "".
    """
    import numpy as np

    worst = 0.0
    for place, host in enumerate(expected):
        board = np.concatenate([batch[place] for batch in batches])
        if board.shape != host.shape:
            return None, f"output {place} has shape {list(board.shape)}, on the host {list(host.shape)}"
        if not np.isfinite(host).all():
            return None, f"output {place} of the probe itself is not finite"
        unfit = int(np.size(board) - np.count_nonzero(np.isfinite(board)))
        if unfit:
            return None, f"output {place} holds {unfit} values that are NaN or infinite"
        if not host.size:
            continue
        reference = host.astype(np.float64)
        span = float(reference.max() - reference.min()) or float(np.abs(reference).max()) or 1.0
        worst = max(worst, float(np.abs(board.astype(np.float64) - reference).max()) / span)
    if worst > tolerance:
        return worst, f"outputs stray from the host's by {worst:.3g} of their range; {tolerance:.3g} is allowed"
    return worst, ""
