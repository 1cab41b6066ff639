import dataclasses
import subprocess
import sys
from typing import Any, ClassVar

import pytest

from edgedeploy.compress import PASSES, FineTune, PruneChannels, PruneWeights, apply_passes, settings
from edgedeploy.errors import CompressionError
from edgedeploy.records import Pass, PassSettings
from edgedeploy.task import Task


def test_the_table_names_each_pass_by_its_kind() -> None:
    for kind, implementation in PASSES.items():
        assert implementation.kind == kind
        assert implementation.version >= 1
        assert implementation.tools
        assert implementation.__doc__
        assert dataclasses.is_dataclass(implementation)


def test_the_table_loads_no_torch() -> None:
    program = "import sys, edgedeploy.compress, edgedeploy.task, edgedeploy.examples; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_settings_keep_what_was_asked_for() -> None:
    asked = {"ratio": 0.3, "round_to": 8}
    left_out = {"importance": "l2", "scope": "uniform", "only": [], "skip": [], "seed": 0}
    assert settings(PruneChannels(0.3, round_to=8)) == PassSettings("prune-channels", 2, {**asked, **left_out})


@dataclasses.dataclass(frozen=True)
class Broken:
    """A pass that does what no pass may."""

    kind: ClassVar[str] = "broken"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ()

    how: str

    def apply(self, model: Any, task: Task) -> Any:
        import torch

        if self.how == "nan":
            with torch.no_grad():
                model[0].bias[0] = float("nan")
        elif self.how == "shape":
            model[2] = torch.nn.Linear(16, 7)
        else:
            model[2] = torch.nn.Linear(15, 3)
        return model


@pytest.mark.builds
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", "broken: the outputs on the example hold NaN"),
        ("shape", "broken: the outputs changed shape"),
        ("crash", "broken: the forward pass no longer runs"),
    ],
)
def test_what_a_pass_breaks_is_noticed_at_once(tiny: Task, how: str, message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        apply_passes(tiny.load_model(), [Broken(how), FineTune(1)], tiny)


@pytest.mark.builds
def test_the_passes_run_in_order_and_say_so(tiny: Task) -> None:
    lines: list[str] = []
    passes: list[Pass] = [PruneChannels(0.5), FineTune(1), PruneWeights(0.5), FineTune(1)]
    model = apply_passes(tiny.load_model(), passes, tiny, lines.append)
    assert lines == ["prune-channels (1/4)", "fine-tune (2/4)", "prune-weights (3/4)", "fine-tune (4/4)"]
    assert model.get_parameter("0.weight").shape == (8, 4)
    zeros = sum(int((model.get_parameter(f"{i}.weight") == 0).sum()) for i in (0, 2))
    assert zeros == 28
    assert not model.training


@pytest.mark.builds
def test_no_pass_at_all_leaves_the_net_as_it_is(tiny: Task) -> None:
    from tests.compress.measures import same_weights

    assert same_weights(apply_passes(tiny.load_model(), [], tiny), tiny.load_model())
