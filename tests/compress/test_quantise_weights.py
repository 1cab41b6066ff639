import copy
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from edgedeploy.compress import FineTune, PruneWeights, QuantiseWeights, apply_passes
from edgedeploy.compress.grids import LayerGrid
from edgedeploy.compress.weights import weights
from edgedeploy.errors import CompressionError
from edgedeploy.export.grid import grid_of
from edgedeploy.records import Pass
from edgedeploy.task import Task
from tests.compress.measures import accuracy, same_weights

# Scheme, bits, and how much of the accuracy two epochs may leave behind.
SCHEMES: list[tuple[Any, int | None, float]] = [
    ("uniform", 8, 0.02),
    ("uniform", 4, 0.05),
    ("uniform", 2, 0.25),
    ("binary", None, 0.45),
    ("ternary", None, 0.25),
    ("fixed-point", 8, 0.05),
]


def arrays(model: Any) -> dict[str, tuple[np.ndarray, int]]:
    return {name: (weight.detach().numpy(), axis) for name, weight, axis in weights(model)}


CASES = [
    (family, *case)
    for family in ("trained_cnn", "trained_gru", "trained_transformer")
    for case in (SCHEMES[1::2] if family == "trained_cnn" else SCHEMES)
]


@pytest.mark.builds
@pytest.mark.parametrize(("family", "scheme", "bits", "loss"), CASES)
def test_every_weight_lies_on_a_grid_of_few_levels(
    family: str, scheme: Any, bits: int | None, loss: float, request: pytest.FixtureRequest
) -> None:
    task: Task = request.getfixturevalue(family)
    source = task.load_model()
    model = apply_passes(
        copy.deepcopy(source),
        [QuantiseWeights(3, 3e-3, scheme=scheme, bits=bits)],
        task,
    )
    before, after = arrays(source), arrays(model)
    most = 1 if bits is None else 2 ** (bits - 1) - 1
    assert before.keys() == after.keys()
    for name, (weight, axis) in after.items():
        assert weight.dtype == np.float32
        assert not np.array_equal(weight, before[name][0]), name
        grid = grid_of(weight, None if scheme == "fixed-point" else axis)
        assert grid is not None, name
        assert np.abs(grid.levels).max() <= most, name
        for channel in np.moveaxis(weight, axis, 0):
            assert len(np.unique(channel)) <= 2 * most + (scheme != "binary")
        if scheme == "fixed-point":
            assert np.log2(grid.step).item() == pytest.approx(round(np.log2(grid.step).item()), abs=1e-6)
    assert accuracy(model, task) > accuracy(source, task) - loss
    assert not model.training


@pytest.mark.builds
def test_attention_is_quantised_with_its_projections(tmp_path: Any) -> None:
    from tests.export import nets

    task = nets.digits_task(nets.Transformer)
    model = apply_passes(task.load_model(), [QuantiseWeights(1, scheme="ternary")], task)
    levels = {name: len(np.unique(weight[0])) for name, (weight, _) in arrays(model).items()}
    assert "encoder.layers.0.self_attn.in_proj_weight" in levels
    assert "encoder.layers.0.self_attn.out_proj.weight" in levels
    assert max(levels.values()) <= 3


@pytest.mark.builds
@pytest.mark.parametrize("per", ["channel", "tensor"])
def test_a_step_is_there_for_each_channel_or_for_all(tiny: Task, per: Any) -> None:
    model = apply_passes(tiny.load_model(), [QuantiseWeights(1, scheme="binary", per=per)], tiny)
    for weight, _ in arrays(model).values():
        assert len(np.unique(np.abs(weight))) == (1 if per == "tensor" else len(weight))


@pytest.mark.builds
@pytest.mark.parametrize(("scheme", "bits"), [(scheme, bits) for scheme, bits, _ in SCHEMES])
def test_zeros_of_an_earlier_pass_stay_zeros(tiny: Task, scheme: Any, bits: int | None) -> None:
    passes: list[Pass] = [PruneWeights(0.5), QuantiseWeights(2, scheme=scheme, bits=bits)]
    pruned = arrays(apply_passes(tiny.load_model(), passes[:1], tiny))
    both = arrays(apply_passes(tiny.load_model(), passes, tiny))
    for name, (weight, _) in both.items():
        assert (weight[pruned[name][0] == 0] == 0).all()
        assert (weight != 0).any()


@pytest.mark.builds
def test_the_same_settings_give_the_same_weights(tiny: Task) -> None:
    first, second = (
        apply_passes(tiny.load_model(), [QuantiseWeights(2, scheme="uniform", bits=3)], tiny) for _ in range(2)
    )
    assert same_weights(first, second)


@pytest.mark.builds
@pytest.mark.parametrize("skipped", ["2", "2.weight"])
def test_what_is_skipped_stays_off_the_grid_but_is_trained(tiny: Task, skipped: str) -> None:
    before = arrays(tiny.load_model())
    model = apply_passes(tiny.load_model(), [QuantiseWeights(1, scheme="binary", skip=(skipped,))], tiny)
    after = arrays(model)
    assert grid_of(after["0.weight"][0]) is not None
    assert grid_of(after["2.weight"][0]) is None
    assert not np.array_equal(after["2.weight"][0], before["2.weight"][0])


@pytest.mark.builds
@pytest.mark.parametrize(
    ("skip", "message"),
    [
        (
            ("head",),
            r"quantise-weights: skip names 'head', but nothing is called so; these are: 0\.weight, 2\.weight",
        ),
        (("0", "2"), r"quantise-weights: only and skip leave nothing of 0\.weight, 2\.weight"),
    ],
)
def test_a_skip_that_cannot_be_meant_is_refused(tiny: Task, skip: tuple[str, ...], message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        QuantiseWeights(1, scheme="ternary", skip=skip).apply(tiny.load_model(), tiny)


@pytest.mark.builds
def test_a_net_without_weights_is_refused(tiny: Task) -> None:
    from torch import nn

    with pytest.raises(CompressionError, match="nothing to quantise: the net has no convolution, linear or recurrent"):
        QuantiseWeights(1, scheme="ternary").apply(nn.ReLU(), tiny)


@pytest.mark.builds
def test_a_later_pass_is_refused_before_any_work_is_done(tiny: Task) -> None:
    model = tiny.load_model()
    message = (
        "fine-tune: no pass may follow quantise-weights, for the weights must stay on the grid .* put fine-tune first"
    )
    with pytest.raises(CompressionError, match=message):
        apply_passes(model, [QuantiseWeights(1, scheme="binary"), FineTune(1)], tiny)
    assert same_weights(model, tiny.load_model())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 1}, "bits is 1; it must be from 2 to 8"),
        ({"bits": 9}, "bits is 9; it must be from 2 to 8"),
        ({}, "bits is missing; uniform needs it, from 2 to 8"),
        ({"scheme": "fixed-point"}, "bits is missing; fixed-point needs it"),
        ({"scheme": "binary", "bits": 2}, "bits is 2; binary has a number of levels of its own"),
        ({"scheme": "octal"}, "scheme is 'octal'; it must be uniform or binary or ternary or fixed-point"),
        ({"bits": 4, "per": "row"}, "per is 'row'; it must be channel or tensor"),
        ({"bits": 4, "epochs": 0}, "epochs is 0; it must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantiseWeights(**{"epochs": 1, **settings})


def test_a_plan_may_list_what_to_skip() -> None:
    table = {"epochs": 3, "scheme": "uniform", "bits": 4, "skip": ["0", "head"]}
    step = TypeAdapter(QuantiseWeights).validate_python(table)
    assert step == QuantiseWeights(3, scheme="uniform", bits=4, skip=("0", "head"))


@pytest.mark.builds
def test_the_published_grids_are_those_of_the_papers() -> None:
    import torch

    weights = torch.tensor([[1.0, -2.0, 0.1, -0.1], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(
        LayerGrid("binary", None, 0, None).nearest(weights), torch.tensor([[0.8, -0.8, 0.8, -0.8], [0.0] * 4])
    )
    # The threshold is 0.7 * 0.8; beyond it lie 1 and 2.
    torch.testing.assert_close(
        LayerGrid("ternary", None, 0, None).nearest(weights), torch.tensor([[1.5, -1.5, 0.0, 0.0], [0.0] * 4])
    )
    fixed = LayerGrid("fixed-point", 8, None, None).nearest(torch.tensor([[1.0, -0.3, 0.01]]))
    torch.testing.assert_close(fixed, torch.tensor([[64.0, -19.0, 1.0]]) / 64)


@pytest.mark.builds
def test_with_few_bits_the_largest_weights_are_cut_off() -> None:
    import torch

    weights = torch.randn(8, 500, generator=torch.Generator().manual_seed(0))
    points = LayerGrid("uniform", 3, 0, None).nearest(weights)
    plain = weights.abs().amax(1, keepdim=True) / 3
    rounded = (weights / plain).round() * plain
    assert ((points - weights) ** 2).mean() < 0.8 * ((rounded - weights) ** 2).mean()
