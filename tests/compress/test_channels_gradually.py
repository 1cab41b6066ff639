from typing import Any

import pytest

from edgedeploy.compress import PruneChannels, PruneChannelsGradually, apply_passes
from edgedeploy.compress.channels import cuts
from edgedeploy.errors import NothingToDo
from edgedeploy.task import Task
from tests.compress.measures import accuracy, same_weights

pytestmark = pytest.mark.builds


def test_gradually_the_same_widths_are_reached_with_training_between(trained_cnn: Task) -> None:
    from torch import nn

    at_once = PruneChannels(0.5, round_to=8).apply(trained_cnn.load_model(), trained_cnn)
    step = PruneChannelsGradually(3, 2e-3, ratio=0.5, round_to=8, steps=2)
    model = apply_passes(trained_cnn.load_model(), [step], trained_cnn)
    assert [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)] == [
        layer.out_channels for layer in at_once.modules() if isinstance(layer, nn.Conv2d)
    ]
    assert accuracy(model, trained_cnn) > 0.8
    assert same_weights(model, step.apply(trained_cnn.load_model(), trained_cnn))


def test_gradually_takes_equal_parts_of_what_there_was_at_first(tiny: Task) -> None:
    widths = [
        model.get_parameter("0.weight").shape[0]
        for model in cuts(tiny.load_model(), tiny, PruneChannels(0.75), "prune-channels-gradually", 3)
    ]
    assert widths == [12, 8, 4]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 0.5, "steps": 0}, "steps is 0; it must be at least 1"),
        ({"ratio": 0.5, "steps": 5}, "epochs is 4; it must be at least steps, 5"),
        ({"ratio": 1.5}, "ratio is 1.5"),
        ({"ratio": 0.5, "learning_rate": -1.0}, "learning_rate is -1.0"),
    ],
)
def test_settings_of_the_gradual_pass_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PruneChannelsGradually(4, **settings)


def test_where_nothing_can_be_cut_the_net_is_not_trained_either(tiny: Task) -> None:
    model = tiny.load_model()
    with pytest.raises(NothingToDo, match="prune-channels-gradually: nothing was pruned"):
        PruneChannelsGradually(4, ratio=0.5, round_to=32).apply(model, tiny)
    assert same_weights(model, tiny.load_model())
