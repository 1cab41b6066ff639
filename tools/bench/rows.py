"""What one measured line says, and how samples of rival programs become one."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

OURS = "edgedeploy"


class BenchError(Exception):
    """A bench cannot be run here; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. `ours`, `spread` and the `peers` are in `unit`; `spread` is ours' interquartile range."""

    task: str
    unit: str
    better: Literal["higher", "lower"]
    ours: float
    spread: float
    peers: Mapping[str, float]


def interleave(contenders: Mapping[str, Callable[[], float]], rounds: int, seed: int = 0) -> dict[str, list[float]]:
    """Ask every contender for one figure a round, in a new random order each round.

    A first round is thrown away: it fills caches. Drift and bursts of the machine so hit all contenders alike.
    """
    order = list(contenders)
    shuffle = random.Random(seed).shuffle
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        shuffle(order)
        for name in order:
            figure = contenders[name]()
            if number:
                samples[name].append(figure)
    return samples


def ratio_row(task: str, samples: Mapping[str, list[float]], base: str, what: str) -> Row:
    """Return the row of a comparison in which `base` is 1 and less is better.

    Ratios are taken within each round, and the median over the rounds is kept. `what` names the figure, e.g.
    "time". `samples` holds OURS, `base` and further peers, equally many figures each.
    """
    ratios = {
        name: sorted(figure / reference for figure, reference in zip(figures, samples[base], strict=True))
        for name, figures in samples.items()
    }
    low, _, high = statistics.quantiles(ratios[OURS], n=4, method="inclusive")
    peers = {name: _round(statistics.median(values)) for name, values in ratios.items() if name != OURS}
    ours = statistics.median(ratios[OURS])
    return Row(task, f"x {what} of {base}", "lower", _round(ours), _round(high - low), peers)


def _round(value: float) -> float:
    return float(f"{value:.4g}")
