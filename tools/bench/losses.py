"""Where ours loses: each of our files beside the best that any peer has of its kind, in each respect by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgedeploy import statistics
from tools.bench.judging import Figures, Judged
from tools.bench.rows import OURS
from tools.bench.tables import Cell

COLUMNS = ("net", "ours", "accuracy less the best", "bytes x smallest", "zipped x smallest", "speed x fastest", "lost")
# What of ours, and which methods of the peers, do the same.
KINDS: Mapping[str, tuple[str, ...]] = {
    "fp16": ("float16",),
    "int8-dynamic": ("dynamic",),
    "int8-u8s8": ("static", "static-transformer"),
}


def rows(net: str, judged: Sequence[Judged]) -> list[tuple[Cell, ...]]:
    """One row, under COLUMNS, for each kind of file that at least one peer has."""
    found: list[tuple[Cell, ...]] = []
    for what, methods in KINDS.items():
        peers = {
            f"{each.by} {each.what}": each.figures
            for each in judged
            if each.by != OURS and each.what in methods and each.figures is not None
        }
        for ours in judged:
            if ours.by != OURS or ours.what != what or not peers:
                continue
            beside = (None, None, None, None, ours.why) if ours.figures is None else _beside(ours.figures, peers)
            found.append((net, what, *beside))
    return found


def _beside(ours: Figures, peers: Mapping[str, Figures]) -> tuple[Cell, ...]:
    exact = max(peers, key=lambda name: peers[name].accuracy)
    smallest = min(peers, key=lambda name: peers[name].size_bytes)
    densest = min(peers, key=lambda name: peers[name].zipped_bytes)
    # Beyond the noise of the examples (paired, 95 %), and that of the rounds.
    _, least, _ = statistics.paired_difference(peers[exact].scores, ours.scores)
    lost = {
        f"accuracy to {exact}": least > 0,
        f"bytes to {smallest}": ours.size_bytes > peers[smallest].size_bytes,
        f"zipped to {densest}": ours.zipped_bytes > peers[densest].zipped_bytes,
    }
    speeds = {name: figures.speed for name, figures in peers.items() if figures.speed is not None}
    speed = None
    if ours.speed is not None and speeds:
        fastest = max(speeds, key=lambda name: speeds[name].ratio)
        best = speeds[fastest]
        lost[f"speed to {fastest}"] = best.ratio - ours.speed.ratio > max(best.spread, ours.speed.spread)
        speed = ours.speed.ratio / best.ratio
    return (
        ours.accuracy - peers[exact].accuracy,
        ours.size_bytes / peers[smallest].size_bytes,
        ours.zipped_bytes / peers[densest].zipped_bytes,
        speed,
        ", ".join(what for what, is_so in lost.items() if is_so) or "nothing",
    )
