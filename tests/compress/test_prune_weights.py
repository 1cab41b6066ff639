import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.compress import PASSES, FineTune, PruneWeights, apply_passes, finalise, settings
from edgedeploy.compress.held import masks_of, share
from edgedeploy.compress.importance import IMPORTANCES
from edgedeploy.compress.weights import weights as layer_weights
from edgedeploy.errors import CompressionError
from edgedeploy.plan import load_plan
from edgedeploy.records import Pass
from edgedeploy.task import Task
from tests.compress.measures import accuracy, same_weights
from tests.export.nets import Cnn, Gru, Transformer, digits_task

pytestmark = pytest.mark.builds


def weights(model: Any) -> list[Any]:
    return [parameter for parameter in model.parameters() if parameter.ndim >= 2]


def _scale(model: Any, name: str, by: float) -> None:
    import torch

    with torch.no_grad():
        model.get_parameter(name).mul_(by)


def zeros(model: Any) -> int:
    return sum(int((weight == 0).sum()) for weight in weights(model))


@pytest.mark.parametrize("family", ["trained_cnn", "trained_gru", "trained_transformer"])
def test_the_zeros_survive_fine_tuning_and_are_permanent(family: str, request: pytest.FixtureRequest) -> None:
    task: Task = request.getfixturevalue(family)
    pruned = apply_passes(task.load_model(), [PruneWeights(0.6)], task)
    model = apply_passes(task.load_model(), [PruneWeights(0.6), FineTune(2, 2e-3)], task)
    total = sum(p.numel() for p in weights(pruned))
    if family == "trained_transformer":
        total -= pruned.get_parameter("position").numel()  # not a layer's weight
    assert zeros(pruned) == zeros(model) == round(0.6 * total)
    assert not same_weights(pruned, model)
    assert accuracy(model, task) > max(accuracy(pruned, task), 0.8)
    assert model.state_dict().keys() == task.load_model().state_dict().keys()
    assert not masks_of(model)


def test_the_smallest_over_all_layers_go_and_the_rest_is_untouched(tiny: Task) -> None:
    import torch

    before = tiny.load_model()
    after = apply_passes(copy.deepcopy(before), [PruneWeights(0.3)], tiny)
    old = torch.cat([weight.detach().flatten() for weight in weights(before)])
    new = torch.cat([weight.detach().flatten() for weight in weights(after)])
    gone = new == 0
    assert int(gone.sum()) == round(0.3 * len(old))
    assert old[gone].abs().max() <= old[~gone].abs().min()
    assert torch.equal(new[~gone], old[~gone])
    assert not torch.signbit(new[gone]).any(), "one kind of zero packs better than two"
    for old_bias, new_bias in zip(before.parameters(), after.parameters(), strict=True):
        assert old_bias.ndim >= 2 or torch.equal(old_bias, new_bias)


def test_equal_magnitudes_do_not_spoil_the_count(tiny: Task) -> None:
    import torch

    model = tiny.load_model()
    with torch.no_grad():
        for weight in weights(model):
            weight.fill_(0.5)
    assert zeros(apply_passes(model, [PruneWeights(0.25)], tiny)) == round(0.25 * (64 + 48))


def test_pruning_twice_keeps_the_earlier_zeros(tiny: Task) -> None:
    once = apply_passes(tiny.load_model(), [PruneWeights(0.5)], tiny)
    model = apply_passes(tiny.load_model(), [PruneWeights(0.5), PruneWeights(0.2), FineTune(1)], tiny)
    for one, other in zip(weights(once), weights(model), strict=True):
        assert ((one == 0) == (other == 0)).all()


def test_the_gates_of_a_recurrent_layer_compute_with_the_zeros(trained_gru: Task) -> None:
    import torch

    model = PruneWeights(0.9).apply(trained_gru.load_model(), trained_gru)
    fresh = trained_gru.model().eval()
    fresh.load_state_dict(model.state_dict())
    rows = torch.from_numpy(trained_gru.test.inputs[0][:5])
    assert torch.equal(model(rows), fresh(rows))


def test_a_layer_without_any_weight_left_is_refused(tiny: Task) -> None:
    model = tiny.load_model()
    _scale(model, "0.weight", 1e-6)
    with pytest.raises(CompressionError, match=r"sparsity 0.8 leaves no weight at all in 0\.weight; lower"):
        apply_passes(model, [PruneWeights(0.8)], tiny)


def test_a_net_without_weights_is_refused(tiny: Task) -> None:
    from torch import nn

    with pytest.raises(CompressionError, match="no convolution, linear or recurrent layer"):
        PruneWeights(0.5).apply(nn.ReLU(), tiny)


def _revive(model: Any) -> None:
    import torch

    with torch.no_grad():
        model[0].weight.fill_(1.0)


def _reshape(model: Any) -> None:
    import torch

    model[0].weight = torch.nn.Parameter(model[0].weight[:3])


@pytest.mark.parametrize("damage", [_revive, _reshape])
def test_zeros_that_a_later_pass_lost_are_an_error(tiny: Task, damage: Callable[[Any], None]) -> None:
    model = PruneWeights(0.5).apply(tiny.load_model(), tiny)
    damage(model)
    with pytest.raises(CompressionError, match=r"a later pass lost the zeros .* 0\.weight"):
        finalise(model)


def test_the_masks_are_copied_with_the_net(tiny: Task) -> None:
    model = copy.deepcopy(PruneWeights(0.5).apply(tiny.load_model(), tiny))
    before = zeros(model)
    FineTune(1, 0.1).apply(model, tiny)
    assert zeros(model) == before


def test_pruning_again_to_a_higher_share_adds_to_the_zeros(tiny: Task) -> None:
    for importance in IMPORTANCES:
        once = apply_passes(tiny.load_model(), [PruneWeights(0.3, importance=importance)], tiny)
        steps: list[Pass] = [PruneWeights(0.3, importance=importance), PruneWeights(0.6, importance="random", seed=9)]
        twice = apply_passes(tiny.load_model(), steps, tiny)
        assert zeros(once) == round(0.3 * 112)
        assert zeros(twice) == round(0.6 * 112)
        for one, other in zip(weights(once), weights(twice), strict=True):
            assert (other[one == 0] == 0).all()


def test_a_scope_of_layers_takes_the_share_from_each(tiny: Task) -> None:
    model = tiny.load_model()
    _scale(model, "0.weight", 1e-3)
    after = apply_passes(model, [PruneWeights(0.5, scope="layer")], tiny)
    assert [int((weight == 0).sum()) for weight in weights(after)] == [32, 24]


@pytest.mark.parametrize("unit", ["absolute", "std"])
def test_a_threshold_lets_go_what_is_below_it(tiny: Task, unit: Any) -> None:
    import torch

    before = tiny.load_model()
    threshold = 0.2 if unit == "absolute" else 0.7
    after = apply_passes(copy.deepcopy(before), [PruneWeights(threshold=threshold, unit=unit)], tiny)
    for old, new in zip(weights(before), weights(after), strict=True):
        values = old.detach().double()
        spread = float(((values - values.mean()) ** 2).mean() ** 0.5) if unit == "std" else 1.0
        assert torch.equal(new == 0, old.abs() < threshold * spread)
        assert 0 < int((new == 0).sum()) < new.numel()


def test_only_skip_and_layers_say_where(tiny: Task) -> None:
    def found(**settings: Any) -> list[int]:
        model = apply_passes(tiny.load_model(), [PruneWeights(**settings)], tiny)
        return [int((weight == 0).sum()) for weight in weights(model)]

    assert found(sparsity=0.5, only=("0",)) == [32, 0]
    assert found(sparsity=0.5, skip=("0.weight",)) == [0, 24]
    assert found(sparsity=0.5, layers={"2": 0.25}) == [32, 12]
    assert found(sparsity=0.5, layers={"2": 0.0}) == [32, 0]
    assert found(layers={"?": 0.75}) == [48, 36]
    assert found(layers={"0": 0.25}) == [16, 0]
    assert found(threshold=1e-9, layers={"0": 0.25}) == [16, 0]


def _neighbours(weight: Any, size: int) -> list[Any]:
    """Groups of so many weights along the inputs, the last of a row shorter."""
    rows = weight.detach().movedim(1, -1).flatten(0, -2)
    return [row[start : start + size] for row in rows for start in range(0, len(row), size)]


@pytest.mark.parametrize("importance", ["l1", "l2"])
def test_blocks_along_the_inputs_go_together(importance: Any) -> None:
    import torch

    task = digits_task(Cnn)
    before = task.load_model()
    after = PruneWeights(0.5, importance=importance, block=4).apply(copy.deepcopy(before), task)
    gone: list[float] = []
    kept: list[float] = []
    lost, total = 0, 0
    for (name, old, _), (_, new, _) in zip(layer_weights(before), layer_weights(after), strict=True):
        for one, other in zip(_neighbours(old, 4), _neighbours(new, 4), strict=True):
            assert torch.equal(one, other) or not other.any(), name
            mean = float(one.double().abs().mean() if importance == "l1" else one.double().square().mean())
            (kept if other.any() else gone).append(mean)
            lost, total = lost + len(one) * (not other.any()), total + len(one)
    assert max(gone) <= min(kept) + 1e-7
    assert abs(lost - 0.5 * total) <= 2


def test_the_two_norms_rank_blocks_differently_and_single_weights_alike(tiny: Task) -> None:
    import torch

    model = tiny.load_model()
    with torch.no_grad():
        model.get_parameter("0.weight").fill_(3.0)
        model.get_parameter("0.weight")[0] = torch.tensor([0.5, 0.5, 0.9, 0.0])  # l1: 1.0 > 0.9, l2: 0.5 < 0.81

    def row(importance: Any, block: int) -> list[float]:
        step = PruneWeights(layers={"0": 1 / 32}, importance=importance, block=block)
        values: list[float] = apply_passes(copy.deepcopy(model), [step], tiny).get_parameter("0.weight")[0].tolist()
        return values

    assert row("l1", 2) == pytest.approx([0.5, 0.5, 0.0, 0.0])
    assert row("l2", 2) == pytest.approx([0.0, 0.0, 0.9, 0.0])
    assert row("l1", 1) == row("l2", 1) == pytest.approx([0.0, 0.5, 0.9, 0.0])


@pytest.mark.parametrize("family", [Cnn, Gru, Transformer])
def test_of_each_m_neighbours_the_n_largest_stay(family: Any) -> None:
    import torch

    task = digits_task(family)
    before = task.load_model()
    after = PruneWeights(pattern="2:4").apply(copy.deepcopy(before), task)
    whole = 0
    for (_, old, _), (name, new, _) in zip(layer_weights(before), layer_weights(after), strict=True):
        if old.shape[1] % 4:
            assert torch.equal(old, new), name
            whole += 1
            continue
        for one, other in zip(_neighbours(old, 4), _neighbours(new, 4), strict=True):
            largest = one.abs().sort(descending=True).values[1]
            assert torch.equal(other, one * (one.abs() >= largest)), name
    assert whole == (3 if family is Cnn else 0), "the stem and the depthwise kernels see one input each"
    assert len(masks_of(after)) == len(list(layer_weights(after))) - whole


def test_a_pattern_that_fits_no_layer_is_refused(tiny: Task) -> None:
    with pytest.raises(CompressionError, match=r"pattern 2:5 fits no layer.*0\.weight has 4, 2\.weight has 16"):
        apply_passes(tiny.load_model(), [PruneWeights(pattern="2:5")], tiny)


def test_shared_weights_that_become_zero_leave_those_they_shared_with(tiny: Task) -> None:
    import torch

    model = tiny.load_model()
    share(model, {"0.weight": torch.arange(64).view(16, 4) % 8})
    after = apply_passes(model, [PruneWeights(0.5, importance="random"), FineTune(1)], tiny)
    values = after.get_parameter("0.weight").detach()
    assert 0 < int((values == 0).sum()) < 64
    for number in range(8):
        assert len(set(values.flatten()[number::8].tolist())) <= 2, "one value, and zero"


def test_the_same_settings_give_the_same_net(trained_transformer: Task) -> None:
    for importance in IMPORTANCES:
        one, other = (
            PruneWeights(0.5, importance=importance).apply(trained_transformer.load_model(), trained_transformer)
            for _ in range(2)
        )
        assert same_weights(one, other)
    assert not same_weights(
        *(
            PruneWeights(0.5, importance="random", seed=s).apply(trained_transformer.load_model(), trained_transformer)
            for s in (0, 1)
        )
    )


@pytest.mark.parametrize("family", ["trained_cnn", "trained_gru", "trained_transformer"])
def test_what_is_known_of_the_loss_prunes_better_than_chance(family: str, request: pytest.FixtureRequest) -> None:
    task: Task = request.getfixturevalue(family)

    def after(importance: Any) -> float:
        return accuracy(PruneWeights(0.5, importance=importance).apply(task.load_model(), task), task)

    chance = after("random")
    assert after("gradient") > chance + 0.1
    assert after("lamp") > chance + 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"only": ("9",)}, "prune-weights: only names '9', but nothing is called so; these are: 0.weight, 2.weight"),
        ({"layers": {"9": 0.5}}, "prune-weights: layers: only names '9'"),
        ({"layers": {"0": 0.5, "*": 0.3}}, "layers gives 0.weight two shares, 0.5 and 0.3"),
        ({"layers": {"0": 0.999}}, "its share in layers leaves no weight at all in 0.weight"),
        ({"threshold": 100.0}, "threshold 100.0 leaves no weight at all in 0.weight"),
    ],
)
def test_what_does_not_fit_the_net_is_refused(tiny: Task, settings: dict[str, Any], message: str) -> None:
    given = settings if {"threshold", "layers"} & settings.keys() else {"sparsity": 0.5, **settings}
    with pytest.raises(CompressionError, match=re.escape(message)):
        apply_passes(tiny.load_model(), [PruneWeights(**given)], tiny)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "sparsity, threshold or pattern is missing; give one of them, or shares in layers"),
        ({"sparsity": 0.5, "threshold": 0.1}, "sparsity and threshold are given; keep one of them"),
        ({"sparsity": 0.5, "pattern": "2:4"}, "sparsity and pattern are given; keep one of them"),
        ({"sparsity": 0.0}, "sparsity is 0.0; it must lie between 0 and 1, both excluded"),
        ({"sparsity": 1.0}, "sparsity is 1.0; it must lie between 0 and 1, both excluded"),
        ({"sparsity": float("nan")}, "sparsity is nan; it must lie between 0 and 1, both excluded"),
        ({"threshold": 0.0}, "threshold is 0.0; it must be above 0"),
        ({"threshold": float("inf")}, "threshold is inf; it must be above 0"),
        ({"threshold": 0.1, "importance": "lamp"}, "importance is 'lamp'; a threshold is one of magnitudes"),
        ({"sparsity": 0.5, "unit": "std"}, "unit is 'std'; it is for a threshold"),
        ({"threshold": 0.1, "unit": "mean"}, "unit is 'mean'; it must be absolute or std"),
        ({"sparsity": 0.5, "importance": "l3"}, "importance is 'l3'; it must be l1 or l2 or gradient"),
        ({"sparsity": 0.5, "scope": "uniform"}, "scope is 'uniform'; it must be global or layer"),
        ({"sparsity": 0.5, "block": 0}, "block is 0; it must be at least 1"),
        ({"pattern": "4:2"}, "pattern is '4:2'; it must be N:M"),
        ({"pattern": "0:4"}, "pattern is '0:4'; it must be N:M"),
        ({"pattern": "half"}, "pattern is 'half'; it must be N:M"),
        ({"pattern": "2:4", "block": 4}, "block does not go with pattern"),
        ({"pattern": "2:4", "layers": {"0": 0.5}}, "layers does not go with pattern"),
        ({"layers": {"0": 1.0}}, "layers gives '0' 1.0; a share must be at least 0 and below 1"),
        ({"sparsity": 0.5, "seed": -1}, "seed is -1; it must be 0 or above"),
    ],
)
def test_the_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        PruneWeights(**settings)


def test_a_plan_holds_shares_of_layers(tmp_path: Path) -> None:
    table = '{ kind = "prune-weights", sparsity = 0.5, layers = { "2" = 0.0, "0.*" = 0.9 }, skip = ["4"] }'
    text = f'[task]\nfile = "task.py"\n[[recipe]]\nname = "sparse"\npasses = [{table}]\n'
    (tmp_path / "edgedeploy.toml").write_text(text + 'formats = ["onnx"]\nprecisions = ["fp32"]\n')
    [step] = load_plan(tmp_path, PASSES).recipes[0].passes
    assert step == PruneWeights(0.5, layers={"2": 0.0, "0.*": 0.9}, skip=("4",))
    assert hash(step) == hash(PruneWeights(0.5, layers={"2": 0.0, "0.*": 0.9}, skip=("4",)))
    assert json.loads(json.dumps(settings(step).settings))["layers"] == {"2": 0.0, "0.*": 0.9}
