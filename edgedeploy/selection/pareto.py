"""Finds what is beaten on every count, so that only real trade-offs are ranked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Axes = Mapping[str, float]


def dominates(a: Axes, b: Axes) -> bool:
    """Whether `a` is nowhere worse than `b` and somewhere better, on the axes that both have; smaller is better."""
    shared = a.keys() & b.keys()
    return all(a[axis] <= b[axis] for axis in shared) and any(a[axis] < b[axis] for axis in shared)


def dominator(index: int, points: Sequence[Axes]) -> int | None:
    """The index of a point on the front that dominates `points[index]`, or None where it is on the front itself."""
    beaten_by = [i for i, point in enumerate(points) if dominates(point, points[index])]
    on_front = [i for i in beaten_by if not any(dominates(other, points[i]) for other in points)]
    return on_front[0] if on_front else None
