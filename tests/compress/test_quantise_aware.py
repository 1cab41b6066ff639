import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.compress import FineTune, PruneWeights, QuantiseAware, apply_passes
from edgedeploy.compress.graph_rewrites import fold_batch_norms, split_attention
from edgedeploy.compress.integer_graph import insert_roundings, operator
from edgedeploy.compress.quantise_aware import traced
from edgedeploy.compress.rounding import rounding_of_activations, rounding_of_weights
from edgedeploy.errors import CompressionError
from edgedeploy.task import Task, load_task, predict
from tests.compress.measures import accuracy, same_weights
from tests.support.nets import write_task
from tests.support.trained import trained

pytestmark = pytest.mark.builds


LOGARITHM = """

class Odd(nn.Module):
    def forward(self, x):
        return (x.log() + x).clamp(-5, 5)
"""


def operators(model: Any) -> list[str]:
    return [str(node.target) for node in model.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("family", ["trained_cnn", "trained_transformer"])
def test_the_net_learns_to_bear_int8(family: str, request: pytest.FixtureRequest) -> None:
    task: Task = request.getfixturevalue(family)
    source = task.load_model()
    model = apply_passes(copy.deepcopy(source), [QuantiseAware(1, 1e-3)], task)
    assert accuracy(model, task) > accuracy(source, task) - 0.02
    used = operators(model)
    assert "aten.batch_norm.default" not in used
    assert used.count("quantized_decomposed.quantize_per_channel.default") == sum(
        name.endswith(("conv2d.default", "linear.default")) for name in used
    )
    assert not model.training


def test_weights_and_biases_lie_where_integer_kernels_have_them(tiny: Task) -> None:
    import torch

    model: Any = apply_passes(tiny.load_model(), [QuantiseAware(1)], tiny)
    steps = [node.args[1] for node in model.graph.nodes if str(node.target).endswith("dequantize_per_tensor.default")]
    for index, input_step in ((0, steps[0]), (2, steps[1])):
        scale = model.get_buffer(f"round__{index}_weight_scale").double()
        weight, bias = (model.get_parameter(f"{index}.{name}").double() for name in ("weight", "bias"))
        for levels, most in ((weight / scale[:, None], 127), (bias / (scale * input_step), 2**31)):
            torch.testing.assert_close(levels, levels.round(), atol=2e-3, rtol=0)
            assert 1 <= levels.abs().max() < most + 0.5


def test_the_same_settings_give_the_same_net(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path, ("nn.ReLU()", "nn.Dropout(0.5)")), None)
    first, second = (apply_passes(task.load_model(), [QuantiseAware(2)], task) for _ in range(2))
    assert same_weights(first, second)
    assert first.code == second.code, "steps and zero points of activations stand in the code"


def test_zeros_of_an_earlier_pass_stay_zeros() -> None:
    task = trained("blank")  # its batch norms are folded into what was pruned
    pruned = apply_passes(task.load_model(), [PruneWeights(0.5)], task)
    model = apply_passes(task.load_model(), [PruneWeights(0.5), QuantiseAware(1)], task)
    gone = 0
    for name, weight in pruned.named_parameters():
        if weight.ndim >= 2:
            zeros = weight == 0
            gone += int(zeros.sum())
            assert (model.get_parameter(name)[zeros] == 0).all(), name
    assert gone > 5_000
    assert accuracy(model, task) > 0.9


def test_folding_batch_norms_changes_no_output(trained_cnn: Task) -> None:
    import numpy as np

    inputs = tuple(array[:32] for array in trained_cnn.test.inputs)
    source = trained_cnn.load_model()
    expected = predict(source, inputs)[0]
    module = traced(source, trained_cnn)
    fold_batch_norms(module)
    assert not [node for node in module.graph.nodes if operator(node) == "batch_norm.default"]
    np.testing.assert_allclose(predict(module, inputs)[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    "before", ["nn.BatchNorm1d(4), nn.Linear(4, 16)", "nn.Linear(4, 16), nn.ReLU(), nn.BatchNorm1d(16)"]
)
def test_a_batch_norm_that_follows_no_layer_stays_in_float(tmp_path: Path, before: str) -> None:
    task = load_task(write_task(tmp_path, ("nn.Linear(4, 16)", before)), None)
    model = apply_passes(task.load_model(), [QuantiseAware(2, 0.01)], task)
    assert "aten.batch_norm.default" in operators(model)
    assert accuracy(model, task) > 0.3


def test_a_clamp_is_fused_and_its_layer_not_rounded_before(tiny: Task) -> None:
    module = traced(tiny.load_model(), tiny)
    assert insert_roundings(module) == 2
    order = [node.name for node in module.graph.nodes if node.op != "get_attr"]
    assert order[-7:] == ["round_input_1", "linear", "relu", "round_relu", "linear_1", "round_linear_1", "output"]


def test_attention_in_one_operator_is_taken_apart_without_a_change() -> None:
    import numpy as np

    from tests.export import nets

    task = nets.digits_task(nets.Transformer)
    source = task.load_model()
    expected = predict(source, task.test.inputs)[0]
    module = traced(source, task)
    split_attention(module)
    used = operators(module)
    assert "aten.scaled_dot_product_attention.default" not in used
    assert used.count("aten.softmax.int") == 2
    np.testing.assert_allclose(predict(module, task.test.inputs)[0], expected, atol=1e-5)


def test_a_range_without_bounds_is_refused(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path, ("nn.ReLU()", "nn.ReLU(), Odd()"), extra=LOGARITHM), None)
    with pytest.raises(
        CompressionError, match="log, add of the traced net holds NaN or infinity on the calibration split"
    ):
        apply_passes(task.load_model(), [QuantiseAware(1)], task)


def test_dropout_works_while_training_alone(tmp_path: Path) -> None:
    import numpy as np

    task = load_task(write_task(tmp_path, ("nn.ReLU()", "nn.ReLU(), nn.Dropout(0.9)")), None)
    model = apply_passes(task.load_model(), [QuantiseAware(1)], task)
    first, second = (predict(model, task.test.inputs)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_ranges_start_from_the_calibration_split(tmp_path: Path) -> None:
    wide = "    splits['calibration'] = (splits['calibration'][0] * 100, splits['calibration'][1])\n"
    steps = []
    for name, change in (("narrow", ""), ("wide", wide)):
        task = load_task(write_task(tmp_path / name, ("    return splits", change + "    return splits")), None)
        module: Any = apply_passes(task.load_model(), [QuantiseAware(1, 1e-5)], task)
        first = next(node for node in module.graph.nodes if "quantize_per_tensor" in str(node.target))
        steps.append(first.args[1])
    assert steps[1] > 50 * steps[0]


def test_a_recurrent_net_is_refused_with_what_to_use_instead(trained_gru: Task) -> None:
    with pytest.raises(CompressionError, match=r"quantise-aware: .* GRU, .* use quantise-weights with bits = 8"):
        apply_passes(trained_gru.load_model(), [QuantiseAware(1)], trained_gru)


def test_a_net_with_nothing_to_quantise_is_refused(tmp_path: Path) -> None:
    layers = "nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)"
    task = load_task(write_task(tmp_path, (layers, "nn.LayerNorm(4), nn.ReLU()")), None)
    with pytest.raises(
        CompressionError, match=r"no convolution .1d or 2d. and no linear layer that could be quantised"
    ):
        apply_passes(task.load_model(), [QuantiseAware(1)], task)


def test_a_net_that_cannot_be_traced_is_refused(tmp_path: Path) -> None:
    extra = (
        "\n\nclass Odd(nn.Linear):\n"
        "    def forward(self, x):\n        return super().forward(x) if x.sum() > 0 else -super().forward(x)\n"
        "\n\ndef model():\n    return Odd(4, 3)\n"
    )
    task = load_task(write_task(tmp_path, extra=extra), None)
    with pytest.raises(CompressionError, match="quantise-aware: the net cannot be traced"):
        apply_passes(task.load_model(), [QuantiseAware(1)], task)


def test_the_net_can_be_left_to_another_process(tiny: Task, tmp_path: Path) -> None:
    import torch

    model = apply_passes(tiny.load_model(), [QuantiseAware(1)], tiny)
    inputs = torch.from_numpy(tiny.test.inputs[0])
    torch.save(model, tmp_path / "net.pt")
    torch.save((inputs, model(inputs)), tmp_path / "expected.pt")
    program = (
        "import torch\n"
        "net = torch.load('net.pt', weights_only=False)\n"
        "inputs, expected = torch.load('expected.pt')\n"
        "print(torch.equal(net(inputs), expected))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_a_later_pass_is_refused_before_any_work_is_done(tiny: Task) -> None:
    with pytest.raises(CompressionError, match="fine-tune: no pass may follow quantise-aware, for the scales"):
        apply_passes(tiny.load_model(), [QuantiseAware(1), FineTune(1)], tiny)


def test_settings_are_those_of_fine_tune() -> None:
    assert QuantiseAware(2, batch_size=8).batch_size == 8
    with pytest.raises(ValueError, match="learning_rate is -1; it must be above 0"):
        QuantiseAware(2, -1)


def test_activations_are_rounded_to_int8_with_a_zero_point_that_is_exact() -> None:
    import torch

    rounding: Any = rounding_of_activations()
    values = torch.tensor([-1.0, 0.0, 2.0, 4.1])
    assert torch.equal(rounding(values), values), "it only watches at first"
    rounding.mode = "keep"
    assert float(rounding.scale) == pytest.approx(5.1 / 255)
    assert int(rounding.zero_point) == -128 + 50
    assert float(rounding(torch.tensor(0.0))) == 0.0
    torch.testing.assert_close(rounding(torch.tensor([9.0, -9.0])), torch.tensor([4.1, -1.0]), atol=1e-5, rtol=0)
    rounding.mode = "learn"
    rounding(torch.tensor([-1.0, 14.1]))
    assert float(rounding.scale) == pytest.approx((5.1 + 0.01 * 10) / 255)


def test_a_channel_that_is_all_but_zero_gets_no_step_too_fine_for_its_bias() -> None:
    import torch

    rounding: Any = rounding_of_weights()
    rounding(torch.tensor([[1.27, 0.0], [1e-9, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(rounding.scale, torch.tensor([1e-2, 1e-5, 1e-5]))
