from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgedeploy.compress.codebook import clustered

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.builds

INITS: list[Any] = ["linear", "density", "random"]


def drawn(count: int = 400, seed: int = 0) -> torch.Tensor:
    import torch

    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def mean_of(values: np.ndarray, labels: np.ndarray, number: int) -> float:
    return float(values[labels == number].mean())


def plain_kmeans(values: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """By distances to every centre, as the textbook has it."""
    labels = np.full(len(values), -1)
    while True:
        found = np.abs(values[:, None] - np.sort(centres)).argmin(1)
        if np.array_equal(found, labels):
            return np.asarray(np.unique(found, return_inverse=True)[1])
        labels = found
        centres = np.array([mean_of(values, labels, number) for number in np.unique(labels)])
        labels = np.unique(labels, return_inverse=True)[1]


def starts(values: np.ndarray, clusters: int, init: str) -> np.ndarray:
    if init == "linear":
        return np.linspace(values.min(), values.max(), clusters)
    return np.sort(values)[[int((place + 0.5) * len(values) / clusters) for place in range(clusters)]]


@pytest.mark.parametrize("init", ["linear", "density"])
@pytest.mark.parametrize("clusters", [1, 2, 7, 16])
def test_the_clusters_are_those_of_the_textbook(init: Any, clusters: int) -> None:
    values = drawn()
    labels = clustered(values, clusters, init, 1000, 0).numpy()
    exact = values.double().numpy()
    assert np.array_equal(labels, plain_kmeans(exact, starts(exact, clusters, init)))


@pytest.mark.parametrize("init", INITS)
def test_every_value_is_nearest_to_the_mean_of_its_own_cluster(init: Any) -> None:
    values = drawn(1000)
    labels = clustered(values, 12, init, 1000, 3).numpy()
    exact = values.double().numpy()
    means = np.array([mean_of(exact, labels, number) for number in range(labels.max() + 1)])
    assert (np.diff(means) > 0).all()
    assert np.array_equal(np.abs(exact[:, None] - means).argmin(1), labels)


def test_a_random_start_is_that_of_its_seed() -> None:
    import torch

    first, same, other = (clustered(drawn(), 8, "random", 1, seed) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_fewer_iterations_stop_short_of_the_end() -> None:
    import torch

    assert not torch.equal(clustered(drawn(), 16, "linear", 1, 0), clustered(drawn(), 16, "linear", 1000, 0))


@pytest.mark.parametrize("init", INITS)
def test_where_values_are_few_each_keeps_its_own(init: Any) -> None:
    import torch

    values = torch.tensor([0.5, -1.0, 0.5, 2.0, -1.0])
    assert clustered(values, 3, init, 1000, 0).tolist() == [1, 0, 1, 2, 0]
    assert len(clustered(values[:0], 3, init, 1000, 0)) == 0


def test_with_a_price_on_bits_each_value_lies_where_error_and_bits_cost_least() -> None:
    values = drawn(2000)
    exact = values.double().numpy()
    labels = clustered(values, 16, "density", 1000, 0, rate_weight=0.02).numpy()
    numbers = range(labels.max() + 1)
    means = np.array([mean_of(exact, labels, number) for number in numbers])
    bits = -np.log2(np.array([(labels == number).mean() for number in numbers]))
    cost = (exact[:, None] - means) ** 2 / (exact**2).mean() + 0.02 * bits
    assert np.array_equal(cost.argmin(1), labels)


def test_a_price_on_bits_buys_bits_with_error() -> None:
    values = drawn(2000)
    exact = values.double().numpy()
    bits, errors = [], []
    for price in (0.0, 0.003, 0.03):
        labels = clustered(values, 16, "density", 1000, 0, rate_weight=price).numpy()
        shares = np.bincount(labels) / len(labels)
        bits.append(float(-(shares * np.log2(shares)).sum()))
        means = np.array([mean_of(exact, labels, number) for number in range(len(shares))])
        errors.append(float(((exact - means[labels]) ** 2).mean()))
    assert bits[0] > bits[1] > bits[2]
    assert max(errors[:2]) < errors[2]
