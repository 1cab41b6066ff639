import numpy as np
import pytest

from edgedeploy.export.grid import Grid, grid_of


def on_grid(shape: tuple[int, ...], most: int, axis: int | None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """float32 weights and the levels they were made of; each channel holds the last level and the one before."""
    random = np.random.default_rng(seed)
    levels = random.integers(-most, most + 1, size=shape)
    channels = levels.reshape(1, -1) if axis is None else np.moveaxis(levels, axis, 0)
    for channel in channels:
        channel.flat[:2] = (-most, most - 1)
    sizes = [1] * len(shape)
    if axis is not None:
        sizes[axis] = shape[axis]
    step = random.uniform(1e-3, 0.3, size=sizes).astype(np.float32)
    return (levels * step).astype(np.float32), levels


def restored(grid: Grid, axis: int | None, ndim: int) -> np.ndarray:
    sizes = [1] * ndim
    if axis is not None:
        sizes[axis] = -1
    result: np.ndarray = grid.levels * grid.step.reshape(sizes)
    return result


@pytest.mark.parametrize("most", [1, 2, 3, 7, 31, 100, 127])
@pytest.mark.parametrize("axis", [0, 1, -1, None])
def test_the_levels_that_weights_were_made_of_are_found(most: int, axis: int | None) -> None:
    weights, levels = on_grid((6, 8, 5), most, axis)
    grid = grid_of(weights, axis)
    assert grid is not None
    assert grid.levels.dtype == np.int8
    assert grid.step.dtype == np.float32
    assert grid.step.shape == ((1,) if axis is None else (weights.shape[axis],))
    np.testing.assert_array_equal(grid.levels, levels)
    np.testing.assert_allclose(restored(grid, axis, 3), weights, rtol=3e-7)
    assert grid.bits == most.bit_length() + 1


def test_folding_a_batch_norm_into_the_channels_changes_the_steps_alone() -> None:
    weights, levels = on_grid((16, 40), 127, 0)
    factor = np.random.default_rng(1).normal(size=(16, 1)).astype(np.float32)
    grid = grid_of(weights * factor)
    assert grid is not None
    np.testing.assert_array_equal(grid.levels, levels * np.sign(factor))


def test_the_coarsest_grid_is_taken_in_each_channel() -> None:
    grid = grid_of(np.array([[6.0, -3.0, 0.0], [4.0, 3.0, 1.0], [-0.7, 0.7, 0.7]], np.float32))
    assert grid is not None
    np.testing.assert_array_equal(grid.levels, [[2, -1, 0], [4, 3, 1], [-1, 1, 1]])
    np.testing.assert_allclose(grid.step, [3.0, 1.0, 0.7])
    assert grid.bits == 4


def test_channels_of_zeros_have_a_step_that_a_file_can_hold() -> None:
    grid = grid_of(np.array([[0.0, 0.0], [1.0, -1.0]], np.float32))
    assert grid is not None
    np.testing.assert_array_equal(grid.levels, [[0, 0], [1, -1]])
    np.testing.assert_array_equal(grid.step, [1.0, 1.0])
    assert grid_of(np.zeros((3, 3), np.float32)).bits == 1  # type: ignore[union-attr]


def test_trained_floats_lie_on_no_grid() -> None:
    weights = np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32)
    assert grid_of(weights) is None
    weights, _ = on_grid((6, 400), 7, 0)
    assert grid_of(weights) is not None
    weights[3, 399] *= 1.001  # beyond what is sampled first
    assert grid_of(weights) is None


def test_more_levels_than_int8_holds_are_no_grid() -> None:
    weights, _ = on_grid((4, 50), 128, 0)
    assert grid_of(weights) is None
    weights, _ = on_grid((4, 50), 127, 0)
    assert grid_of(weights, None) is None, "each channel has its own step"


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_what_is_no_number_lies_on_no_grid(odd: float) -> None:
    assert grid_of(np.array([[1.0, odd]], np.float32)) is None
    assert grid_of(np.zeros((0, 4), np.float32)) is None
