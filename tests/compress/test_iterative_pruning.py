import re
from typing import Any

import pytest

from edgedeploy.compress import FineTune, PruneChannels, PruneIteratively, PruneWeights, apply_passes
from edgedeploy.compress.training import train
from edgedeploy.compress.weights import weights
from edgedeploy.errors import CompressionError
from edgedeploy.records import Pass
from edgedeploy.task import Task
from tests.compress.measures import accuracy, same_weights
from tests.export.nets import Cnn, Gru, Transformer, digits_task

pytestmark = pytest.mark.builds


def zeros(model: Any) -> int:
    return sum(int((weight == 0).sum()) for _, weight, _ in weights(model))


@pytest.mark.parametrize("family", [Cnn, Gru, Transformer])
def test_the_ticket_that_is_left_learns_again(family: Any) -> None:
    task = digits_task(family)
    settings: dict[str, Any] = {"epochs": 8, "learning_rate": 1e-2, "batch_size": 32}
    steps: list[Pass] = [FineTune(**settings), PruneIteratively(**settings, sparsity=0.7, rounds=2, rewind_epochs=1)]
    model = apply_passes(task.load_model(), steps, task)
    at_once = apply_passes(task.load_model(), [FineTune(**settings), PruneWeights(0.7)], task)
    assert zeros(model) == zeros(at_once) == round(0.7 * sum(weight.numel() for _, weight, _ in weights(model)))
    assert accuracy(model, task) > accuracy(at_once, task) + 0.05
    assert model.state_dict().keys() == task.load_model().state_dict().keys()


def test_each_round_prunes_the_same_share_of_what_is_left() -> None:
    step = PruneIteratively(1, sparsity=0.875, rounds=3)
    assert [step.sparsity_after(number) for number in (1, 2, 3)] == pytest.approx([0.5, 0.75, 0.875])


def _watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, dict[str, Any]]]:
    """Epochs and weights at the start of each training."""
    seen: list[tuple[int, dict[str, Any]]] = []

    def watched(model: Any, task: Task, settings: Any) -> None:
        seen.append((settings.epochs, {name: value.clone() for name, value in model.state_dict().items()}))
        train(model, task, settings)

    monkeypatch.setattr("edgedeploy.compress.iterative_pruning.train", watched)
    return seen


def test_it_rewinds_to_the_very_start_of_the_same_seed(tiny: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    torch.manual_seed(7)
    start = tiny.model().state_dict()
    seen = _watched(monkeypatch)
    before = tiny.load_model()
    PruneIteratively(2, sparsity=0.75, rounds=2, seed=7).apply(tiny.load_model(), tiny)
    assert [epochs for epochs, _ in seen] == [2, 2]
    for (_, state), share in zip(seen, (0.5, 0.75), strict=True):
        gone = {name: state[name] == 0 for name in ("0.weight", "2.weight")}
        assert sum(int(mask.sum()) for mask in gone.values()) == round(share * 112)
        for name, value in state.items():
            kept = ~gone.get(name, torch.zeros_like(value, dtype=torch.bool))
            assert torch.equal(value[kept], start[name][kept])
    first = torch.cat([(seen[0][1][name] == 0).flatten() for name in ("0.weight", "2.weight")])
    magnitudes = torch.cat([before.get_parameter(name).detach().abs().flatten() for name in ("0.weight", "2.weight")])
    assert magnitudes[first].max() <= magnitudes[~first].min(), "the net as it comes decides the first round"


def test_it_rewinds_to_a_start_that_was_trained_a_little(tiny: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        early = tiny.model()
    FineTune(3).apply(early, tiny)
    seen = _watched(monkeypatch)
    PruneIteratively(5, sparsity=0.5, rounds=2, rewind_epochs=3).apply(tiny.load_model(), tiny)
    assert [epochs for epochs, _ in seen] == [3, 5, 5]
    for _, state in seen[1:]:
        kept = state["0.weight"] != 0
        assert torch.equal(state["0.weight"][kept], early.get_parameter("0.weight")[kept])


def test_zeros_of_before_stay_and_count(tiny: Task) -> None:
    once = apply_passes(tiny.load_model(), [PruneWeights(0.5)], tiny)
    steps: list[Pass] = [PruneWeights(0.5), PruneIteratively(1, sparsity=0.6, rounds=2, rewind_epochs=1)]
    model = apply_passes(tiny.load_model(), steps, tiny)
    assert zeros(model) == round(0.6 * 112)
    for (_, one, _), (_, other, _) in zip(weights(once), weights(model), strict=True):
        assert not (other[one == 0] != 0).any()


def test_the_same_seed_gives_the_same_net_and_fine_tuning_keeps_its_zeros(tiny: Task) -> None:
    step = PruneIteratively(1, sparsity=0.6, rounds=2)
    one, other = (apply_passes(tiny.load_model(), [step], tiny) for _ in range(2))
    assert same_weights(one, other)
    assert zeros(apply_passes(tiny.load_model(), [step, FineTune(1)], tiny)) == round(0.6 * 112)


def test_only_and_the_scope_say_where(tiny: Task) -> None:
    def found(**settings: Any) -> list[int]:
        model = PruneIteratively(1, sparsity=0.5, rounds=1, **settings).apply(tiny.load_model(), tiny)
        return [int((weight == 0).sum()) for _, weight, _ in weights(model)]

    assert found(scope="layer") == [32, 24]
    assert found(only=("0",)) == [32, 0]


def test_after_a_pass_that_changed_the_net_it_is_refused(tiny: Task) -> None:
    message = (
        "prune-iteratively: it rewinds to the start that the task's model() gives, but an earlier pass changed the "
        "net: 0.weight was (16, 4) and is (8, 4); put this pass first"
    )
    narrower = PruneChannels(0.5).apply(tiny.load_model(), tiny)
    with pytest.raises(CompressionError, match=re.escape(message)):
        PruneIteratively(1, sparsity=0.5).apply(narrower, tiny)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 0.0}, "sparsity is 0.0; it must lie between 0 and 1, both excluded"),
        ({"rounds": 0}, "rounds is 0; it must be at least 1"),
        ({"rewind_epochs": -1}, "rewind_epochs is -1; it must be at least 0"),
        ({"importance": "l3"}, "importance is 'l3'; it must be l1 or l2"),
        ({"scope": "all"}, "scope is 'all'; it must be global or layer"),
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
    ],
)
def test_the_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        PruneIteratively(**{"epochs": 1, "sparsity": 0.5, **settings})
