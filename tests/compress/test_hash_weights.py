from typing import Any

import numpy as np
import pytest

from edgedeploy.compress import FineTune, HashWeights, PruneWeights, apply_passes
from edgedeploy.compress.hash_weights import hashed
from edgedeploy.compress.weights import weights
from edgedeploy.errors import CompressionError
from edgedeploy.task import Task
from tests.compress.measures import accuracy, same_weights

pytestmark = pytest.mark.builds


def splitmix64(state: int) -> int:
    """As published, in whole numbers of Python."""
    mask = 2**64 - 1
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & mask
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & mask
    return state ^ (state >> 31)


def test_the_bucket_of_a_place_is_that_of_its_hash() -> None:
    start = (0x9E3779B97F4A7C15 * 6 + (2 << 40)) % 2**64
    assert hashed(50, 7, seed=5, layer=2).tolist() == [splitmix64((start + place) % 2**64) % 7 for place in range(50)]


def test_buckets_are_filled_evenly_and_differ_by_seed_and_layer() -> None:
    counts = np.bincount(hashed(8000, 8, seed=0, layer=0), minlength=8)
    assert ((counts > 850) & (counts < 1150)).all(), counts
    other_seed, other_layer = hashed(8000, 8, seed=1, layer=0), hashed(8000, 8, seed=0, layer=1)
    for other in (other_seed, other_layer):
        assert 0.05 < (hashed(8000, 8, seed=0, layer=0) == other).mean() < 0.2


@pytest.mark.parametrize("family", ["trained_cnn", "trained_gru", "trained_transformer"])
def test_a_net_learns_with_few_real_values(family: str, request: pytest.FixtureRequest) -> None:
    task: Task = request.getfixturevalue(family)
    model = HashWeights(2, 2e-2, ratio=0.25).apply(task.load_model(), task)
    layers = {name: weight.detach() for name, weight, _ in weights(model)}
    for number, (name, weight) in enumerate(layers.items()):
        buckets = round(0.25 * weight.numel())
        labels = hashed(weight.numel(), buckets, 0, number)
        flat = weight.flatten().numpy()
        first = {label: flat[place] for place, label in reversed(list(enumerate(labels.tolist())))}
        assert np.array_equal(flat, np.array([first[label] for label in labels.tolist()])), name
    assert accuracy(model, task) > 0.2


def test_each_value_starts_as_the_mean_of_its_weights(tiny: Task) -> None:
    before = tiny.load_model()
    model = apply_passes(tiny.load_model(), [HashWeights(1, 1e-12, ratio=0.25, weight_decay=0.0)], tiny)
    flat = before.get_parameter("0.weight").detach().double().numpy().ravel()
    labels = hashed(64, 16, 0, 0)
    expected = [flat[labels == label].mean() for label in labels]
    np.testing.assert_allclose(model.get_parameter("0.weight").detach().numpy().ravel(), expected, atol=1e-6)


def test_zeros_stay_zeros_and_what_is_skipped_keeps_its_values(tiny: Task) -> None:
    passes: list[Any] = [PruneWeights(0.5), HashWeights(1, 1e-2, ratio=0.25, skip=("2",)), FineTune(1, 1e-2)]
    pruned = apply_passes(tiny.load_model(), passes[:1], tiny)
    model = apply_passes(tiny.load_model(), passes, tiny)
    for name in ("0.weight", "2.weight"):
        assert (model.get_parameter(name)[pruned.get_parameter(name) == 0] == 0).all()
    found = {name: np.unique(weight.detach().numpy()) for name, weight, _ in weights(model)}
    assert len(found["0.weight"]) <= 17
    assert len(found["2.weight"]) == int((model.get_parameter("2.weight") != 0).sum()) + 1, "each its own, and zero"


def test_the_same_seed_gives_the_same_weights_and_another_one_others(tiny: Task) -> None:
    first, second, other = (apply_passes(tiny.load_model(), [HashWeights(1, seed=seed)], tiny) for seed in (1, 1, 2))
    assert same_weights(first, second)
    assert not same_weights(first, other)


def test_a_net_without_layers_is_refused(tiny: Task) -> None:
    from torch import nn

    with pytest.raises(CompressionError, match="hash-weights: the net has no convolution, linear or recurrent layer"):
        HashWeights(1).apply(nn.ReLU(), tiny)


@pytest.mark.parametrize("ratio", [0.0, 1.0, float("nan")])
def test_a_ratio_that_makes_no_sense_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"ratio is .*; it must lie between 0 and 1, both excluded"):
        HashWeights(1, ratio=ratio)


def test_what_training_refuses_is_refused_here_too() -> None:
    with pytest.raises(ValueError, match="epochs is 0"):
        HashWeights(0)
