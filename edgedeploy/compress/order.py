"""Which pass may not follow which, and why: read when a plan is read, and again before passes are run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgedeploy.records import Pass, unwrapped

# By their kinds in a recipe, so that this table loads none of them.
_PRUNES_WEIGHTS = ("prune-weights", "prune-gradually", "prune-adaptively", "sparsify")
_CUTS = (
    *("prune-channels", "prune-channels-gradually", "prune-heads", "prune-hidden-units", "drop-layers", "factorise"),
)
_SHARES = ("share-weights", "hash-weights")
_QUANTISES = ("quantise-aware", "quantise-weights")
_TASKS_OWN_NET = "task"  # what `student` of distil says for a fresh net of the task's factory


def _each(earlier: Iterable[str], later: Iterable[str], why: str) -> dict[tuple[str, str], str]:
    later = tuple(later)
    return {(before, after): why for before in earlier for after in later}


LAST: dict[str, str] = {
    "quantise-aware": "the scales that it learns hold for its weights alone",
    "quantise-weights": "the weights must stay on the grid that it puts them on",
}
"""After these no pass may come, and why."""

ONCE: dict[str, str] = {
    "fold-batch-norm": "the first folds all batch norms there are",
    "reorder-channels": "each order undoes the one before",
}
"""These may stand in a recipe once, and why."""

NOT_AFTER: dict[tuple[str, str], str] = {
    **_each(_SHARES, ["fold-batch-norm"], "folding multiplies the shared values by a factor for each channel"),
    **_each(_SHARES, ["factorise"], "the factors do not hold the shared values"),
    **_each(
        [*_PRUNES_WEIGHTS, "prune-iteratively"], ["factorise"], "the singular value decomposition fills the zeros again"
    ),
    **_each(
        _SHARES,
        [*_PRUNES_WEIGHTS, "prune-iteratively"],
        "the shared values were fitted to weights that pruning takes away",
    ),
    **_each(_SHARES, _QUANTISES, "its grid moves the weights off their shared values"),
    **_each(_SHARES, ["soup"], "the mean of several nets does not keep the shared values"),
    ("share-weights", "hash-weights"): "hashing shares other weights, so that the codebook is lost",
    ("hash-weights", "share-weights"): "the codebook shares other weights, so that what was hashed is lost",
    **_each(
        [*_CUTS, "fold-batch-norm"],
        ["prune-iteratively"],
        "it rewinds to the task's own net, whose layers are shaped as they were before",
    ),
    ("reorder-channels", "prune-iteratively"): "it rewinds to the task's own net, whose channels are ordered as before",
    **_each(["reorder-channels"], _CUTS, "the order that it found is that of the channels before the cut"),
}
"""(earlier, later) -> why the later one would spoil what the earlier has done, or be spoilt by it."""


def misplaced(passes: Sequence[Pass]) -> tuple[int, str] | None:
    """The place of the first pass that may not stand where it does, and the sentence that says why; None where all may.

    A pass that another one wraps counts as if it stood there by itself.
    """
    steps = [unwrapped(step) for step in passes]
    for place, step in enumerate(steps):
        reason = _out_of_place(step, steps[:place])
        if reason is not None:
            return place, f"{step.kind}: {reason}"
    return None


def _out_of_place(step: Pass, before: Sequence[Pass]) -> str | None:
    if before and step.kind == "distil" and getattr(step, "student", None) == _TASKS_OWN_NET:
        return (
            f'with student = "{_TASKS_OWN_NET}" it starts from a fresh net, and what {before[0].kind} did before would '
            "be lost; put it first"
        )
    for earlier in before:
        if earlier.kind in LAST:
            return f"no pass may follow {earlier.kind}, for {LAST[earlier.kind]}; put {step.kind} first"
        if step.kind in ONCE and step.kind == earlier.kind:
            return f"it is there twice, but {ONCE[step.kind]}; take one of them out"
        if (earlier.kind, step.kind) in NOT_AFTER:
            reason = NOT_AFTER[earlier.kind, step.kind]
            return f"it may not follow {earlier.kind}, for {reason}; put {step.kind} before {earlier.kind}"
    return None
