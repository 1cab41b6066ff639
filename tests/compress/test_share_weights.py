from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgedeploy import export
from edgedeploy.compress import FineTune, FoldBatchNorm, PruneChannels, PruneWeights, ShareWeights, apply_passes
from edgedeploy.compress.held import finalise, follow, hold, masks_of, share, shared_of
from edgedeploy.compress.weights import weights
from edgedeploy.errors import CompressionError
from edgedeploy.records import Format, Pass, Precision, Target
from edgedeploy.task import Task
from tests.compress.measures import accuracy, same_weights

if TYPE_CHECKING:
    import torch
    from torch import nn


def values(model: nn.Module) -> dict[str, np.ndarray]:
    """What each layer's weights are, zeros left out."""
    found = {name: np.unique(weight.detach().numpy()) for name, weight, _ in weights(model)}
    return {name: value[value != 0] for name, value in found.items()}


@pytest.mark.builds
@pytest.mark.parametrize("family", ["trained_cnn", "trained_gru", "trained_transformer"])
def test_a_layer_keeps_few_values_and_the_net_its_accuracy(family: str, request: pytest.FixtureRequest) -> None:
    task: Task = request.getfixturevalue(family)
    source = task.load_model()
    if family == "trained_cnn":
        source = FoldBatchNorm().apply(source, task)
    pruned = PruneWeights(0.5).apply(source, task)
    zeros = {name: weight.detach() == 0 for name, weight, _ in weights(pruned)}
    before, counts = accuracy(pruned, task), {name: len(found) for name, found in values(pruned).items()}
    model = apply_passes(pruned, [ShareWeights(32, biases=True), FineTune(1, 1e-4)], task)
    for name, found in values(model).items():
        assert 2 <= len(found) <= 32 < counts[name], name
    for name, weight, _ in weights(model):
        assert (weight.detach() == 0).equal(zeros[name]), name
    layers = {name for name, _, _ in weights(model)}
    rest = [one.detach().numpy().ravel() for name, one in model.named_parameters() if name not in layers]
    assert len(np.unique(np.concatenate(rest))) <= 16
    assert accuracy(model, task) > before - 0.06


@pytest.mark.builds
def test_batch_norm_that_exporting_would_fold_is_refused(trained_cnn: Task) -> None:
    message = "share-weights: exporting folds 1 into 0 with a factor for each channel, .* put fold-batch-norm first"
    with pytest.raises(CompressionError, match=message):
        ShareWeights().apply(trained_cnn.load_model(), trained_cnn)
    ShareWeights(only=("11",)).apply(trained_cnn.load_model(), trained_cnn)


@pytest.mark.builds
def test_fine_tuning_moves_a_centroid_along_the_mean_gradient_of_its_weights(tiny: Task) -> None:
    import torch
    from torch.nn import functional as F

    model = ShareWeights(4).apply(PruneWeights(0.3).apply(tiny.load_model(), tiny), tiny)
    mine, labels = copy.deepcopy(model), dict(shared_of(model))
    settings = FineTune(3, 0.1, batch_size=60, optimiser="sgd", schedule="constant", weight_decay=0.0)
    model = apply_passes(model, [settings], tiny)

    books: dict[str, dict[int, float]] = {
        name: {
            number: mine.get_parameter(name)[label == number][0].item()
            for number in set(label.flatten().tolist()) - {-1}
        }
        for name, label in labels.items()
    }
    speeds = {name: dict.fromkeys(book, 0.0) for name, book in books.items()}
    plain = {name: torch.zeros_like(one) for name, one in mine.named_parameters() if name not in labels}
    inputs, targets = torch.from_numpy(tiny.train.inputs[0]), torch.from_numpy(tiny.train.targets)
    for _ in range(3):
        mine.zero_grad()
        F.cross_entropy(mine(inputs), targets).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for name, parameter in mine.named_parameters():
                assert parameter.grad is not None
                if name in plain:
                    plain[name] = 0.9 * plain[name] + parameter.grad
                    parameter.sub_(0.1 * (parameter.grad + 0.9 * plain[name]))
                    continue
                for number in books[name]:
                    members = labels[name] == number
                    slope = parameter.grad[members].double().mean().item()
                    speeds[name][number] = 0.9 * speeds[name][number] + slope
                    books[name][number] -= 0.1 * (slope + 0.9 * speeds[name][number])
                    parameter[members] = books[name][number]
    for name, parameter in mine.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter, atol=1e-6, rtol=1e-5)


@pytest.mark.builds
def test_one_codebook_serves_the_whole_net_and_goes_on_doing_so(tiny: Task) -> None:
    passes: list[Pass] = [ShareWeights(6, per="net"), FineTune(2, 1e-2)]
    model = apply_passes(tiny.load_model(), passes, tiny)
    found = values(model)
    assert len(np.unique(np.concatenate(list(found.values())))) <= 6
    apart = values(apply_passes(tiny.load_model(), [ShareWeights(6), FineTune(2, 1e-2)], tiny))
    assert len(np.unique(np.concatenate(list(apart.values())))) == 12


@pytest.mark.builds
def test_what_is_chosen_is_shared_and_no_more(tiny: Task) -> None:
    before = tiny.load_model()
    model = apply_passes(tiny.load_model(), [ShareWeights(5, only=("2",))], tiny)
    assert len(values(model)["2.weight"]) <= 5
    assert model.get_parameter("0.weight").equal(before.get_parameter("0.weight"))
    assert model.get_parameter("0.bias").equal(before.get_parameter("0.bias"))
    skipped = apply_passes(tiny.load_model(), [ShareWeights(5, skip=("0",))], tiny)
    assert same_weights(model, skipped)


@pytest.mark.builds
def test_zeros_without_a_mask_stay_zeros_too(tiny: Task) -> None:
    import torch

    model = tiny.load_model()
    with torch.no_grad():
        model.get_parameter("0.weight")[::2] = 0
    model = apply_passes(model, [ShareWeights(4), FineTune(2, 1e-2)], tiny)
    assert (model.get_parameter("0.weight")[::2] == 0).all()
    assert len(values(model)["0.weight"]) <= 4


@pytest.mark.builds
def test_few_values_are_kept_as_they_are(tiny: Task) -> None:
    once = ShareWeights(4).apply(tiny.load_model(), tiny)
    twice = ShareWeights(8).apply(copy.deepcopy(once), tiny)
    assert same_weights(once, twice)


@pytest.mark.builds
@pytest.mark.parametrize("init", ["linear", "density", "random"])
def test_the_same_settings_give_the_same_weights(tiny: Task, init: Any) -> None:
    first, second = (
        apply_passes(tiny.load_model(), [ShareWeights(6, init, seed=1), FineTune(1)], tiny) for _ in range(2)
    )
    assert same_weights(first, second)


@pytest.mark.builds
def test_pruning_after_sharing_leaves_the_other_values_where_they_were(tiny: Task) -> None:
    model = ShareWeights(4).apply(tiny.load_model(), tiny)
    before = values(model)
    model = PruneWeights(0.5).apply(model, tiny)
    assert all(np.isin(found, before[name]).all() for name, found in values(model).items())
    finalise(model)


@pytest.mark.builds
def test_a_pass_that_moves_shared_weights_apart_is_found_out(tiny: Task) -> None:
    import torch

    model = ShareWeights(4, per="net").apply(tiny.load_model(), tiny)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        moved.get_parameter("2.weight")[0, 0] += 0.1
    with pytest.raises(
        CompressionError, match=r"moved the shared weights of .*\.weight apart; put share-weights after"
    ):
        finalise(moved)
    model[2] = torch.nn.Linear(16, 2)  # type: ignore[operator]
    with pytest.raises(CompressionError, match=r"moved the shared weights of 2\.weight apart"):
        finalise(model)


@pytest.mark.builds
def test_what_is_shared_follows_a_net_that_is_cut_even_across_layers(tiny: Task) -> None:
    import torch

    before = ShareWeights(5, per="net").apply(PruneWeights(0.4).apply(tiny.load_model(), tiny), tiny)
    model = copy.deepcopy(before)
    with torch.no_grad():
        model[0].weight = torch.nn.Parameter(before.get_parameter("0.weight")[1:])  # type: ignore[index]
    follow(model, before)
    assert shared_of(model)["0.weight"].equal(shared_of(before)["0.weight"][1:])
    assert masks_of(model)["0.weight"].equal(masks_of(before)["0.weight"][1:])
    assert shared_of(model)["2.weight"].equal(shared_of(before)["2.weight"])


@pytest.mark.builds
def test_channels_cut_after_sharing_leave_the_rest_shared(tiny: Task) -> None:
    passes: list[Pass] = [ShareWeights(5, per="net"), PruneChannels(0.25), FineTune(2, 1e-2)]
    model = apply_passes(tiny.load_model(), passes, tiny)
    assert model.get_parameter("0.weight").shape == (12, 4)
    assert len(np.unique(np.concatenate(list(values(model).values())))) <= 5


@pytest.mark.builds
def test_labels_of_different_parameters_share_only_where_asked(tiny: Task) -> None:
    def labels() -> dict[str, torch.Tensor]:
        shapes = {name: tiny.load_model().get_parameter(name) for name in ("0.weight", "2.weight")}
        return {name: (one > 0).long() for name, one in shapes.items()}

    apart, across = tiny.load_model(), tiny.load_model()
    share(apart, labels())
    share(across, labels(), across=True)
    assert [len(found) for found in values(apart).values()] == [2, 2]
    assert len(np.unique(np.concatenate(list(values(apart).values())))) == 4
    assert len(np.unique(np.concatenate(list(values(across).values())))) == 2
    hold(across, {"0.weight": labels()["0.weight"] > 0})
    assert len(values(across)["0.weight"]) == 1


@pytest.mark.builds
def test_a_net_without_layers_is_refused(tiny: Task) -> None:
    from torch import nn

    with pytest.raises(CompressionError, match="share-weights: the net has no convolution, linear or recurrent layer"):
        ShareWeights().apply(nn.ReLU(), tiny)


@pytest.mark.builds
@pytest.mark.parametrize("file_format", list(Format))
def test_what_is_shared_shows_in_the_file(tiny: Task, file_format: Format, tmp_path: Path) -> None:
    model = apply_passes(tiny.load_model(), [PruneWeights(0.5), ShareWeights(4)], tiny)
    target = Target(file_format, Precision.FP32)
    exported = export.export(model, target, tiny, tmp_path)
    export.check_parity(exported, target, tiny)
    content = exported.path.read_bytes()
    for name, weight, _ in weights(model):
        for value in values(model)[name]:
            # A few may be there by chance; that all are as often as in the net, is not.
            assert content.count(value.tobytes()) >= (weight.detach().numpy() == value).sum(), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clusters": 0}, "clusters is 0; it must be at least 1"),
        ({"bias_clusters": 0}, "bias_clusters is 0; it must be at least 1"),
        ({"iterations": 0}, "iterations is 0; it must be at least 1"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"init": "even"}, "init is 'even'; it must be linear or density or random"),
        ({"per": "row"}, "per is 'row'; it must be layer or net"),
        ({"rate_weight": -1.0}, "rate_weight is -1.0; it must be 0 or above"),
        ({"rate_weight": float("nan")}, "rate_weight is nan; it must be 0 or above"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShareWeights(**settings)
