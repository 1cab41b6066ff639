"""Intervals, paired comparisons and order statistics, so that no number is believed beyond what its sample bears."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from statistics import NormalDist

import numpy as np

_SEED = 20260101
_RESAMPLES = 2000
# Above this many examples the bootstrap of a mean and the normal interval agree to three digits of its width.
_MANY = 20_000
_SAMPLES_PER_BLOCK = 256

Bounds = tuple[float, float]
Blocks = Sequence[Sequence[int]]


def wilson(successes: int, n: int, confidence: float = 0.95) -> Bounds:
    """Bounds of a proportion. E. B. Wilson, Probable inference, JASA 22 (1927), 209-212.

    Raises ValueError unless 0 <= successes <= n and n > 0.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is no proportion")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # The formula gives exactly 0 and 1 at the ends; rounding would not.
    low = 0.0 if successes == 0 else float(centre - half)
    high = 1.0 if successes == n else float(centre + half)
    return low, high


def bootstrap_mean(scores: np.ndarray, confidence: float = 0.95, seed: int = _SEED) -> Bounds:
    """Bounds of the mean of `scores`, shape (n,), by the percentile bootstrap.

    B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; for more than 20,000 scores its
    limit, mean +- z s / sqrt(n). Raises ValueError for no scores.
    """
    values = np.asarray(scores, dtype=np.float64)
    n = len(values)
    if n == 0:
        raise ValueError("there is no mean of no scores")
    if n > _MANY:
        half = NormalDist().inv_cdf((1 + confidence) / 2) * float(values.std(ddof=1)) / np.sqrt(n)
        return float(values.mean() - half), float(values.mean() + half)
    generator = np.random.default_rng(seed)
    rows = max(1, 4_000_000 // n)  # bounds the memory of one round of draws
    means = np.concatenate(
        [
            values[generator.integers(0, n, size=(min(rows, _RESAMPLES - start), n))].mean(axis=1)
            for start in range(0, _RESAMPLES, rows)
        ]
    )
    return _percentile_bounds(means, confidence)


def bootstrap_of(
    function: Callable[[np.ndarray], float], n: int, confidence: float = 0.95, resamples: int = 400, seed: int = _SEED
) -> Bounds:
    """Bounds of a statistic that is no mean over examples, by the percentile bootstrap (Efron, Tibshirani).

    `function` gets the indices, shape (n,), of the examples drawn and returns the statistic of those. Draws of
    which it is not finite (a class is missing, say) are left out; bounds are infinite when all are.
    """
    if n <= 0:
        raise ValueError("there is nothing to draw from")
    generator = np.random.default_rng(seed)
    values = np.array([function(generator.integers(0, n, size=n)) for _ in range(resamples)], dtype=np.float64)
    values = values[np.isfinite(values)]
    return _percentile_bounds(values, confidence) if len(values) else (-np.inf, np.inf)


def paired_difference(
    a: np.ndarray, b: np.ndarray, confidence: float = 0.95, seed: int = _SEED
) -> tuple[float, float, float]:
    """mean(a - b) over the same examples, shape (n,) each, and its bounds by the percentile bootstrap of the pairs.

    A bootstrap cannot draw what the sample lacks: where no pair differs in one direction, that side is widened
    by the exact binomial bound for no event in n, 1 - alpha^(1/n) (Clopper, Pearson, Biometrika 26 (1934); the
    "rule of three" for alpha = .05), times the largest possible difference: 1 for scores within [0, 1], else
    the range of the scores seen. Raises ValueError for unequal lengths or no pair.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"no pairs in scores of shapes {first.shape} and {second.shape}")
    differences = first - second
    low, high = bootstrap_mean(differences, confidence, seed)
    least, most = float(min(first.min(), second.min())), float(max(first.max(), second.max()))
    largest = 1.0 if least >= 0.0 and most <= 1.0 else most - least
    unseen = (1.0 - (1.0 - confidence) ** (1.0 / len(differences))) * largest
    if not (differences > 0).any():
        high += unseen
    if not (differences < 0).any():
        low -= unseen
    return float(differences.mean()), low, high


def paired_drop_bound(lost: int, gained: int, n: int, confidence: float = 0.95) -> float:
    """The drop of a proportion that is not exceeded at this one-sided confidence, from n pairs of right and wrong.

    `lost` pairs were right and became wrong, `gained` the other way round. It is the score bound of T. Tango,
    Statistics in Medicine 17 (1998), 891-908; where nothing was gained it is at least the exact bound of the share
    lost (Clopper, Pearson, Biometrika 26 (1934)), which alone is valid at no event at all. McNemar's exact test
    is none for a margin: given the pairs that differ it tests a drop of 0 only. Raises ValueError for impossible
    counts.
    """
    if n <= 0 or lost < 0 or gained < 0 or lost + gained > n:
        raise ValueError(f"{lost} lost and {gained} gained of {n} are no pairs")
    z = NormalDist().inv_cdf(confidence)

    def refuted(drop: float) -> bool:
        b = (2 * n - lost + gained) * drop - lost - gained
        share = (math.sqrt(max(b * b + 8 * n * gained * drop * (1 - drop), 0.0)) - b) / (4 * n)
        return lost - gained - n * drop <= -z * math.sqrt(n * (2 * share + drop * (1 - drop)))

    bound = _bisect(refuted, (lost - gained) / n)
    if gained == 0 and lost < n:
        bound = max(bound, _bisect(lambda share: _binomial_cdf(lost, n, share) <= 1 - confidence, lost / n))
    return bound


def _bisect(holds: Callable[[float], bool], low: float) -> float:
    """Where between `low` and 1 something begins to hold that holds at 1."""
    high = 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _binomial_cdf(k: int, n: int, p: float) -> float:
    if p <= 0.0 or p >= 1.0:
        return float(p <= 0.0)
    counts = range(k + 1)
    whole = math.lgamma(n + 1)
    logs = (whole - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) for i in counts)
    return sum(math.exp(log + (n - i) * math.log1p(-p)) for i, log in zip(counts, logs, strict=True))


@cache
def least_runs(p: float, confidence: float = 0.99) -> int:
    """How many samples the p-quantile needs: so many that at most one lies above it with probability 1 - confidence.

    The smallest n with p^n + n (1 - p) p^(n-1) <= 1 - confidence; 64, 130 and 662 for p90, p95 and p99. MLPerf
    Inference rules, "early stopping". Quantiles up to the median need one.
    """
    if not 0.0 < p < 1.0:
        raise ValueError(f"{p} is no quantile between 0 and 1")
    if p <= 0.5:
        return 1
    n = 1
    while p**n + n * (1 - p) * p ** (n - 1) > 1 - confidence:
        n += 1
    return n


def percentile(sorted_samples: Sequence[int], p: float) -> int | None:
    """sorted[int(n p)], the sample itself without interpolation (MLPerf Mobile); None below `least_runs(p)`."""
    n = len(sorted_samples)
    return sorted_samples[int(n * p)] if n >= least_runs(p) else None


def median_interval(repetitions: Blocks, confidence: float = 0.95, seed: int = _SEED) -> Bounds:
    """Bounds of the median over all samples, in their unit, by a two-stage bootstrap: repetitions, then samples.

    Samples of one repetition share its process and its moment, so they are not independent: whole repetitions
    are drawn first, then samples within each. A. C. Davison, D. V. Hinkley, Bootstrap Methods and their
    Application (1997), section 3.8. One repetition alone shows no spread between repetitions: its bounds are
    those within it. Raises ValueError where there is no sample.
    """
    return _percentile_bounds(_median_draws([_blocks(repetitions)], seed)[0], confidence)


def probability_lower(a_blocks: Blocks, b_blocks: Blocks, seed: int = _SEED) -> float:
    """Bootstrap probability that the median of a lies below that of b, equal medians counting half.

    Two-stage as in `median_interval`. Repetitions of the same index are taken to be of the same round, hence
    drawn together when both have as many: what drifts from round to round then cancels. Raises ValueError where
    either has no sample.
    """
    a, b = _blocks(a_blocks), _blocks(b_blocks)
    first, second = _median_draws([a, b], seed)
    return float((first < second).mean() + (first == second).mean() / 2)


def _blocks(repetitions: Blocks) -> list[np.ndarray]:
    blocks = [np.asarray(block, dtype=np.float64) for block in repetitions if len(block)]
    if not blocks:
        raise ValueError("there is no sample")
    return blocks


def _median_draws(groups: Sequence[list[np.ndarray]], seed: int, resamples: int = 1000) -> list[np.ndarray]:
    """Bootstrap medians of each group, shape (resamples,); drawn repetitions are shared where the counts agree."""
    generator = np.random.default_rng(seed)
    counts = [len(group) for group in groups]
    chosen = generator.integers(0, counts[0], size=(resamples, counts[0]))
    draws = []
    for group, count in zip(groups, counts, strict=True):
        rows = chosen if count == counts[0] else generator.integers(0, count, size=(resamples, count))
        size = min(_SAMPLES_PER_BLOCK, max(len(block) for block in group))
        # What a long repetition can still be resampled to is drawn once, so that the work does not grow with it.
        pools = np.stack([block[generator.integers(0, len(block), size=(4 * size))] for block in group])
        medians = np.empty(resamples)
        for i in range(resamples):
            within = generator.integers(0, pools.shape[1], size=(count, size))
            medians[i] = np.median(pools[rows[i][:, None], within])
        draws.append(medians)
    return draws


def _percentile_bounds(values: np.ndarray, confidence: float) -> Bounds:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
