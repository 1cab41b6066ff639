from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.build.identity import requests
from edgedeploy.compress import (
    ChooseRate,
    FineTune,
    OptionalPass,
    PruneChannels,
    QuantiseAware,
    QuantiseWeights,
    apply_passes,
    findings,
    settings,
    tools,
)
from edgedeploy.errors import CompressionError, NothingToDo
from edgedeploy.records import Format, Pass, PassSettings, Precision, Recipe, Target, unwrapped
from edgedeploy.task import Task
from tests.compress.measures import ZEROS, parameters, same_weights


@pytest.mark.builds
def test_a_pass_that_finds_nothing_is_left_out_and_noted(trained_gru: Task) -> None:
    lines: list[str] = []
    passes: list[Pass] = [OptionalPass(PruneChannels(0.5)), ZEROS(sparsity=0.5)]
    model = apply_passes(trained_gru.load_model(), passes, trained_gru, lines.append)
    assert same_weights(model, apply_passes(trained_gru.load_model(), passes[1:], trained_gru))
    [note] = findings.notes_of(model)
    assert note.startswith("left out prune-channels: nothing was pruned: the channels of GRU")
    assert lines == ["optional prune-channels (1/2)", f"{ZEROS.kind} (2/2)"]


@pytest.mark.builds
def test_a_pass_that_finds_something_is_applied(trained_cnn: Task) -> None:
    model = apply_passes(trained_cnn.load_model(), [OptionalPass(PruneChannels(0.5))], trained_cnn)
    assert same_weights(model, apply_passes(trained_cnn.load_model(), [PruneChannels(0.5)], trained_cnn))
    assert parameters(model) < parameters(trained_cnn.load_model())
    assert findings.notes_of(model) == ()


@pytest.mark.builds
def test_any_other_failure_is_one_of_the_recipe(tiny: Task) -> None:
    step = OptionalPass(QuantiseWeights(1, scheme="binary", skip=("nothing",)))
    with pytest.raises(CompressionError, match="skip names 'nothing'"):
        apply_passes(tiny.load_model(), [step], tiny)


@pytest.mark.builds
@pytest.mark.parametrize(
    "step", [PruneChannels(0.5), ZEROS(sparsity=0.5), QuantiseAware(1), QuantiseWeights(1, scheme="binary")]
)
def test_each_pass_says_when_the_net_has_nothing_for_it(step: Pass, tiny: Task) -> None:
    import torch
    from torch import nn

    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(4))

        def forward(self, rows: Any) -> Any:
            return rows * self.factor

    with pytest.raises(NothingToDo, match=step.kind):
        step.apply(Scale(), tiny)


def test_settings_and_tools_cover_what_is_wrapped() -> None:
    wrapped = {f"pass.{name}": value for name, value in settings(PruneChannels(0.3)).settings.items()}
    assert wrapped["pass.ratio"] == 0.3
    assert settings(OptionalPass(PruneChannels(0.3))) == PassSettings(
        "optional", 1, {"pass.kind": "prune-channels", "pass.version": PruneChannels.version, **wrapped}
    )
    assert tools(OptionalPass(PruneChannels(0.5))) == {"torch", "torch-pruning"}
    assert tools(FineTune(1)) == {"torch"}
    assert unwrapped(OptionalPass(OptionalPass(FineTune(1)))) == FineTune(1)


def test_the_identity_of_a_variant_follows_the_wrapped_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def identity(step: Pass) -> str:
        [request] = requests([Recipe("a", (step,), (Target(Format.ONNX, Precision.FP32),))], "0" * 64, Path())
        return request.id

    def choose(inner: Pass, *values: float) -> ChooseRate:
        return ChooseRate(epochs=1, pass_=inner, setting="sparsity", values=values, max_drop=0.01)

    first = identity(choose(ZEROS(sparsity=0.5), 0.5, 0.7))
    assert identity(choose(ZEROS(sparsity=0.9), 0.5, 0.7)) == first, "what stood there is chosen anew"
    assert identity(choose(ZEROS(sparsity=0.5), 0.5, 0.8)) != first
    assert identity(OptionalPass(ZEROS(sparsity=0.5))) != identity(ZEROS(sparsity=0.5))
    assert identity(OptionalPass(ZEROS(sparsity=0.5))) != identity(OptionalPass(ZEROS(sparsity=0.6)))
    plain = identity(OptionalPass(ZEROS(sparsity=0.5)))
    monkeypatch.setattr(ZEROS, "version", 99)
    assert identity(OptionalPass(ZEROS(sparsity=0.5))) != plain


@pytest.mark.builds
def test_findings_go_with_the_net_and_over_to_another() -> None:
    from torch import nn

    record = findings.PrunedAlone("0.weight", 0.5, 0.1, 0.01)
    before = nn.Linear(2, 2)
    findings.note(before, "first")
    findings.remember_sensitivity(before, (record,))
    copied = pickle.loads(pickle.dumps(copy.deepcopy(before)))
    findings.note(copied, "second")
    findings.carry(copied, before)
    assert findings.notes_of(copied) == ("first", "second")
    assert findings.sensitivity_of(copied) == (record,)
    assert before.state_dict().keys() == copied.state_dict().keys()
    other = nn.Linear(2, 2)
    findings.note(other, "second")
    findings.carry(other, before)
    assert findings.notes_of(other) == ("first", "second")
    assert findings.sensitivity_of(other) == (record,)
    findings.carry(before, before)
    assert findings.notes_of(before) == ("first",)
