"""Intervals cover what they promise, and degenerate samples do not lie."""

import math
import time

import numpy as np
import pytest

from edgedeploy import statistics


def test_wilson_agrees_with_a_worked_example() -> None:
    # 81 of 263: Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    low, high = statistics.wilson(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_wilson_stays_inside_at_the_ends() -> None:
    low, high = statistics.wilson(0, 20)
    assert low == 0.0
    assert 0.1 < high < 0.2
    low, high = statistics.wilson(20, 20)
    assert high == 1.0
    assert 0.8 < low < 0.9


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_proportion(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        statistics.wilson(successes, n)


def test_bootstrap_mean_covers_the_mean() -> None:
    covered = 0
    for seed in range(120):
        scores = np.random.default_rng(seed).normal(3.0, 1.0, size=60)
        low, high = statistics.bootstrap_mean(scores, seed=seed)
        covered += low <= 3.0 <= high
    assert 0.88 <= covered / 120 <= 1.0


def test_bootstrap_mean_and_its_limit_agree() -> None:
    scores = np.random.default_rng(1).random(statistics._MANY)
    drawn = statistics.bootstrap_mean(scores)
    limit = statistics.bootstrap_mean(np.append(scores, 0.5))
    assert drawn == pytest.approx(limit, abs=2e-4)


def test_bootstrap_of_a_statistic_that_is_no_mean() -> None:
    scores = np.random.default_rng(2).normal(size=200)
    low, high = statistics.bootstrap_of(lambda drawn: float(np.std(scores[drawn])), len(scores))
    assert low < scores.std() < high
    assert high - low < 0.3


def test_bootstrap_of_skips_draws_without_a_value() -> None:
    assert statistics.bootstrap_of(lambda _: float("nan"), 10, resamples=5) == (-np.inf, np.inf)
    values = iter([float("nan"), 1.0, 1.0])
    assert statistics.bootstrap_of(lambda _: next(values), 10, resamples=3) == (1.0, 1.0)


def test_paired_difference_sees_what_an_unpaired_one_would_miss() -> None:
    generator = np.random.default_rng(3)
    b = (generator.random(2000) < 0.8).astype(float)
    a = np.where((generator.random(2000) < 0.02) & (b == 0), 1.0, b)
    mean, low, high = statistics.paired_difference(a, b)
    assert mean == pytest.approx((a - b).mean())
    assert 0.0 < mean < high < 0.01
    assert low < mean


def test_no_difference_seen_is_not_no_difference() -> None:
    same = np.ones(270)
    mean, low, high = statistics.paired_difference(same, same)
    assert mean == 0.0
    assert high == pytest.approx(1 - 0.05 ** (1 / 270))
    assert low == -high


def test_a_sample_with_losses_only_on_one_side_keeps_the_other_side_open() -> None:
    a, b = np.ones(100), np.ones(100)
    a[0] = 0.0
    mean, low, high = statistics.paired_difference(a, b)
    assert mean == pytest.approx(-0.01)
    assert high == pytest.approx(1 - 0.05 ** (1 / 100))
    assert low < mean


def test_pairs_not_seen_widen_a_clear_difference_but_do_not_hide_it() -> None:
    a, b = np.ones(100), np.ones(100)
    b[:70] = 0.0
    mean, low, high = statistics.paired_difference(a, b)
    assert 0.5 < low < mean < high < 0.85


def test_the_bound_grows_with_the_range_of_the_scores() -> None:
    scores = np.array([-10.0, 0.0, 10.0])
    _, _, high = statistics.paired_difference(scores, scores)
    assert high == pytest.approx(20 * (1 - 0.05 ** (1 / 3)))


@pytest.mark.parametrize(("a", "b"), [(np.ones(2), np.ones(3)), (np.ones(0), np.ones(0)), (np.ones((2, 2)),) * 2])
def test_pairs_must_match(a: np.ndarray, b: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no pairs"):
        statistics.paired_difference(a, b)


@pytest.mark.parametrize(("p", "least"), [(0.9, 64), (0.95, 130), (0.99, 662), (0.5, 1)])
def test_a_percentile_needs_enough_samples(p: float, least: int) -> None:
    assert statistics.least_runs(p) == least
    samples = list(range(least))
    assert statistics.percentile(samples, p) == int(least * p)
    assert statistics.percentile(samples[:-1], p) is None


def _rounds(generator: np.random.Generator, median: float, rounds: int = 12, samples: int = 60) -> list[list[int]]:
    drift = generator.normal(0, 0.015, size=rounds)
    noise = generator.lognormal(0, 0.03, size=(rounds, samples))
    return [[int(median * (1 + d) * x) for x in row] for d, row in zip(drift, noise, strict=True)]


def test_median_interval_covers_under_drift_between_repetitions() -> None:
    covered, naive = 0, 0
    for seed in range(40):
        blocks = _rounds(np.random.default_rng(seed), 1e6)
        low, high = statistics.median_interval(blocks, seed=seed)
        covered += low <= 1e6 <= high
        low, high = statistics.median_interval([[x for block in blocks for x in block]], seed=seed)
        naive += low <= 1e6 <= high
    assert covered / 40 >= 0.87
    assert naive < covered  # samples thrown together look far more certain than they are


def test_a_drop_bound_is_exact_where_nothing_is_gained() -> None:
    # 1 - alpha^(1/n), the rule of three; 4.74 events is the 95 % bound of Poisson's where one was seen.
    assert statistics.paired_drop_bound(0, 0, 300) == pytest.approx(1 - 0.05 ** (1 / 300))
    assert 300 * statistics.paired_drop_bound(1, 0, 300) == pytest.approx(4.74, abs=0.05)
    assert statistics.paired_drop_bound(5, 0, 5) == 1.0


def test_a_drop_bound_solves_tangos_equation() -> None:
    # Score statistic with the restricted estimate of the share gained, as the paper's section 3 has it.
    lost, gained, n = 7, 3, 120
    bound = statistics.paired_drop_bound(lost, gained, n)
    shares = np.linspace(1e-6, 0.5 - bound / 2 - 1e-6, 200_001)
    likelihood = lost * np.log(shares + bound) + gained * np.log(shares)
    likelihood += (n - lost - gained) * np.log(1 - 2 * shares - bound)
    share = shares[likelihood.argmax()]
    z = (lost - gained - n * bound) / np.sqrt(n * (2 * share + bound * (1 - bound)))
    assert z == pytest.approx(-1.6449, abs=1e-3)
    assert bound > statistics.paired_drop_bound(6, 3, n) > statistics.paired_drop_bound(6, 4, n)


def test_a_drop_bound_holds_as_often_as_it_says() -> None:
    n = 40
    pairs = [(lost, gained) for lost in range(n + 1) for gained in range(n + 1 - lost)]
    bounds = np.array([statistics.paired_drop_bound(*pair, n) for pair in pairs])
    counts = np.array([(lost, gained, n - lost - gained) for lost, gained in pairs])
    ways = [math.lgamma(n + 1) - sum(math.lgamma(count + 1) for count in row) for row in counts]
    for gained in (1e-6, 0.01, 0.05, 0.1, 0.2):
        for drop in (0.005, 0.02, 0.05, 0.1, 0.2):
            chance = np.exp(ways + counts @ np.log([gained + drop, gained, 1 - 2 * gained - drop]))
            assert chance.sum() == pytest.approx(1.0)
            assert chance[bounds >= drop].sum() >= 0.944


@pytest.mark.parametrize("counts", [(0, 0, 0), (-1, 0, 5), (3, 3, 5)])
def test_impossible_pairs_have_no_bound(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="are no pairs"):
        statistics.paired_drop_bound(*counts)


def test_median_interval_of_one_repetition_and_of_constant_samples() -> None:
    assert statistics.median_interval([[5, 5, 5]]) == (5.0, 5.0)
    low, high = statistics.median_interval([list(range(100))])
    assert low < 49.5 < high


def test_probability_lower_follows_the_truth() -> None:
    generator = np.random.default_rng(4)
    fast, slow = _rounds(generator, 1.0e6), _rounds(generator, 1.05e6)
    assert statistics.probability_lower(fast, slow) > 0.97
    assert statistics.probability_lower(slow, fast) < 0.03
    assert statistics.probability_lower(fast, fast) == pytest.approx(0.5, abs=0.1)


def test_probability_lower_cancels_what_rounds_have_in_common() -> None:
    generator = np.random.default_rng(5)
    drift = np.exp(generator.normal(0, 0.2, size=10))
    noise = generator.lognormal(0, 0.005, size=(2, 10, 80))
    fast = [[int(1.00e6 * d * x) for x in row] for d, row in zip(drift, noise[0], strict=True)]
    slow = [[int(1.02e6 * d * x) for x in row] for d, row in zip(drift, noise[1], strict=True)]
    assert statistics.probability_lower(fast, slow) > 0.9
    assert statistics.probability_lower(fast, slow[:-1]) < 0.9


def test_no_sample_has_no_median() -> None:
    with pytest.raises(ValueError, match="no sample"):
        statistics.median_interval([[], []])
    with pytest.raises(ValueError, match="no sample"):
        statistics.probability_lower([[1]], [])


def test_the_same_samples_give_the_same_bounds_and_quickly() -> None:
    blocks = [list(range(1, 20_001)) for _ in range(9)]
    started = time.perf_counter()
    assert statistics.median_interval(blocks) == statistics.median_interval(blocks)
    assert time.perf_counter() - started < 3
