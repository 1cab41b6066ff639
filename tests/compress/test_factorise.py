"""Layers become thin ones in a row: the best of their rank, and no more is lost than the rank says."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgedeploy import export
from edgedeploy.compress import Factorise, FineTune, apply_passes
from edgedeploy.compress.factorise import _thin
from edgedeploy.compress.held import hold, masks_of, share
from edgedeploy.compress.low_rank import (
    decomposed,
    ranks_by_budget,
    ranks_by_common_budget,
    ranks_by_energy,
)
from edgedeploy.compress.macs import count_macs
from edgedeploy.errors import CompressionError
from edgedeploy.records import Format, Pass, Precision, Target
from edgedeploy.task import Task, predict
from tests.compress.measures import accuracy, layer, parameters, same_weights
from tests.compress.recurrent_nets import HIDDEN, last_step, last_step_task, linear, recurrent, task_of

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.builds


PLAIN: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "linear": (layer("Linear", 6, 9), (4, 6)),
    "linear without bias": (layer("Linear", 6, 9, bias=False), (4, 3, 6)),
    "convolution": (layer("Conv2d", 4, 9, 3, stride=2, padding=1, dilation=2), (2, 4, 9, 9)),
    "convolution with circular padding": (
        layer("Conv1d", 4, 9, 3, padding=1, padding_mode="circular", bias=False),
        (2, 4, 9),
    ),
    "pointwise": (layer("Conv2d", 6, 9, 1), (2, 6, 3, 3)),
    "transposed": (layer("ConvTranspose2d", 5, 7, 3, stride=2, output_padding=1), (2, 5, 4, 4)),
}


@pytest.mark.parametrize("case", PLAIN)
def test_full_rank_keeps_what_a_layer_computes(case: str) -> None:
    import torch

    make, shape = PLAIN[case]
    module = make()
    matrix = decomposed(module.weight.flatten(1))
    thin = _thin("", module, {"weight": matrix.factors(len(matrix.values), torch.float32)})
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert thin(values).detach().numpy() == pytest.approx(module(values).detach().numpy(), abs=1e-5)
    assert len([name for name, _ in thin.named_parameters() if name.endswith("bias")]) == (module.bias is not None)
    assert all(parameter.is_contiguous() for parameter in thin.parameters()), "LiteRT's converter mixes others up"


def test_full_rank_keeps_an_embedding() -> None:
    import torch

    module = layer("Embedding", 11, 4, padding_idx=2)()
    thin: Any = _thin("", module, {"weight": decomposed(module.weight).factors(4, torch.float32)})
    tokens = torch.arange(11)
    assert thin(tokens).detach().numpy() == pytest.approx(module(tokens).detach().numpy(), abs=1e-5)
    assert thin[0].padding_idx == 2
    assert all(parameter.is_contiguous() for parameter in thin.parameters())
    assert not thin(tokens)[2].any()


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN", "relu"])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_full_rank_keeps_a_recurrent_layer(kind: str, batch_first: bool, bias: bool) -> None:
    import torch

    settings: dict[str, Any] = {"nonlinearity": "relu"} if kind == "relu" else {}
    settings |= {"batch_first": batch_first, "bias": bias, "num_layers": 2, "bidirectional": True}
    module = layer(kind if kind != "relu" else "RNN", 5, 6, **settings)()
    weights = {name: value for name, value in module.named_parameters() if name.startswith("weight")}
    factors = {name: (m := decomposed(value)).factors(len(m.values), torch.float32) for name, value in weights.items()}
    together = torch.cat([module.weight_ih_l0, module.weight_ih_l0_reverse]).detach()
    first = {"weight_ih_l0": decomposed(together).factors(5, torch.float32)}
    rows = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    state = torch.randn(4, 3 if batch_first else 4, 6, generator=torch.Generator().manual_seed(1))
    given = (state, 2 * state) if kind == "LSTM" else state
    expected = [module(rows), module(rows, given)]
    for found in (factors, first):
        thin: Any = _thin("", copy.deepcopy(module), found)
        thin.flatten_parameters()
        assert all(parameter.is_contiguous() for parameter in thin.parameters())
        assert (thin.hidden_size, thin.num_layers) == (6, 2)
        for result, wanted in zip([thin(rows), thin(rows, given)], expected, strict=True):
            for one, other in zip(flat(result), flat(wanted), strict=True):
                assert one.detach().numpy() == pytest.approx(other.detach().numpy(), abs=1e-5)


def flat(values: Any) -> list[Any]:
    return [one for value in values for one in flat(value)] if isinstance(values, tuple) else [values]


def test_no_product_of_the_rank_is_closer() -> None:
    import torch

    matrix = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    left, right = decomposed(matrix).factors(3, torch.float32)
    assert (left.shape, right.shape) == ((7, 3), (3, 5))
    missing = np.linalg.svd(matrix.numpy(), compute_uv=False)[3:]
    assert float(((left @ right - matrix) ** 2).sum()) == pytest.approx(float((missing**2).sum()), rel=1e-4)
    assert left.norm(dim=0).numpy() == pytest.approx(right.norm(dim=1).numpy(), rel=1e-4), "both train at one pace"


def pad(values: tuple[float, ...], rows: int) -> Any:
    import torch

    matrix = torch.zeros(rows, len(values))
    matrix[: len(values)] = torch.diag(torch.tensor(values))
    return matrix


def test_ranks_follow_the_energy() -> None:
    matrices = {"a": decomposed(pad((4.0, 3.0, 2.0, 1.0), 8))}  # squares 16, 9, 4, 1: shares .53, .83, .97, 1
    for energy, rank in ((0.5, 1), (0.54, 2), (0.83, 2), (0.9, 3), (0.97, 4), (0.999, 4)):
        assert ranks_by_energy(matrices, energy) == {"a": rank}


def test_ranks_follow_the_budget() -> None:
    import torch

    matrices = {"a": decomposed(torch.randn(8, 4)), "b": decomposed(torch.randn(20, 30))}
    assert ranks_by_budget(matrices, 0.75) == {"a": 2, "b": 9}  # 24 of 32 numbers at 12 each, 450 of 600 at 50
    assert ranks_by_budget(matrices, 0.01) == {"a": 1, "b": 1}
    assert matrices["a"].saves(2)
    assert not matrices["a"].saves(3)


def test_a_common_budget_goes_where_energy_is() -> None:
    flat_one, steep = decomposed(pad((1.0, 1.0, 1.0, 1.0), 8)), decomposed(pad((1.0, 0.5, 0.0, 0.0), 8))
    ranks = ranks_by_common_budget({"steep": steep, "flat": flat_one}, 0.75)
    assert ranks == {"steep": 1, "flat": 3}, "48 of 64 numbers, 12 a rank"


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_no_more_than_the_budget_remains(trained_transformer: Task, scope: Any) -> None:
    model = trained_transformer.load_model()
    thin = Factorise(budget=0.5, scope=scope).apply(model, trained_transformer)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2]
    left = parameters(thin) - sum(p.numel() for p in model.parameters() if p.ndim != 2)
    total = sum(p.numel() for p in matrices)
    assert 0.4 * total < left <= 0.5 * total + 0.02 * total  # the first layer, 8 x 64, gives less than its share


def test_what_would_not_get_smaller_is_left_whole() -> None:
    task = last_step_task()
    model = task.load_model()
    with pytest.raises(CompressionError, match=r"nothing was factorised: at energy 0\.999 no layer would have fewer"):
        Factorise(energy=0.999).apply(model, task)


def test_layers_are_chosen_by_name(trained_transformer: Task) -> None:
    model = trained_transformer.load_model()
    before = {name for name, _ in model.named_parameters()}
    thin = Factorise(budget=0.5, only=("blocks.0.*",), skip=("*.query", "*.key")).apply(model, trained_transformer)
    gone = before - {name for name, _ in thin.named_parameters()}
    assert {name.removesuffix(".weight").removesuffix(".bias") for name in gone} == {
        f"blocks.0.{name}" for name in ("attention.value", "attention.out", "mlp.0", "mlp.2")
    }
    with pytest.raises(CompressionError, match="factorise: only names 'nothing'"):
        Factorise(budget=0.5, only=("nothing",)).apply(model, trained_transformer)


def test_convolutions_lose_channels_but_for_grouped_ones(trained_cnn: Task) -> None:
    from torch import nn

    model = trained_cnn.load_model()
    thin = apply_passes(copy.deepcopy(model), [Factorise(budget=0.5)], trained_cnn)
    grouped = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert grouped
    assert len([m for m in thin.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]) == len(grouped)
    assert count_macs(thin, trained_cnn.example) < 0.75 * count_macs(model, trained_cnn.example)


def tied() -> Mapping[str, Any]:
    first, second = linear(), linear()
    second.weight = first.weight
    return {"layer": recurrent(), "head": first, "other": second}


def test_tied_weights_and_what_is_not_called_are_left_alone() -> None:
    task = task_of(lambda net, rows: net.head(net.layer(rows)[0][:, -1]) + net.other(net.layer(rows)[0][:, 0]), tied)
    with pytest.raises(CompressionError, match=r"only names 'head', but nothing is called so; .*: layer\.weight_ih_l0"):
        Factorise(budget=0.5, only=("head",)).apply(task.load_model(), task)
    unused = task_of(last_step, lambda: {"layer": recurrent(), "head": linear(), "unused": linear()})
    with pytest.raises(CompressionError, match="only names 'unused'"):
        Factorise(budget=0.5, only=("unused",)).apply(unused.load_model(), unused)


def test_a_weight_that_is_read_besides_is_refused() -> None:
    task = task_of(
        lambda net, rows: net.head(net.layer(rows)[0][:, -1]) * net.head.weight.mean(),
        lambda: {"layer": recurrent(), "head": linear()},
    )
    model = task.load_model()
    whole = copy.deepcopy(model)
    message = r"no longer runs \(AttributeError: .*layers must be used by calling them alone.* of head"
    with pytest.raises(CompressionError, match=message):
        Factorise(budget=0.5, only=("head",)).apply(model, task)
    assert same_weights(model, whole)


def test_held_zeros_and_shared_weights_come_after_it() -> None:
    import torch

    task = last_step_task()
    model: Any = task.load_model()
    hold(model, {"head.weight": model.head.weight > 0})
    with pytest.raises(CompressionError, match=r"the zeros that an earlier pass holds in head\.weight would be lost"):
        Factorise(budget=0.6).apply(model, task)
    thin: Any = Factorise(budget=0.6, skip=("head",)).apply(model, task)
    assert set(masks_of(thin)) == {"head.weight"}
    model = task.load_model()
    share(model, {"head.weight": torch.zeros(3, HIDDEN, dtype=torch.long)})
    with pytest.raises(CompressionError, match=r"the shared weights .* put factorise first, or name head in skip"):
        Factorise(budget=0.6).apply(model, task)


def test_frozen_weights_stay_frozen(trained_transformer: Task) -> None:
    model = trained_transformer.load_model().requires_grad_(False)
    thin = Factorise(budget=0.5).apply(model, trained_transformer)
    assert not any(parameter.requires_grad for parameter in thin.parameters())


def test_the_same_twice_gives_the_same(trained_transformer: Task) -> None:
    passes: list[Pass] = [Factorise(budget=0.4), FineTune(1)]
    one, other = (apply_passes(trained_transformer.load_model(), passes, trained_transformer) for _ in range(2))
    assert same_weights(one, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "energy and budget: exactly one of them must be given"),
        ({"energy": 0.9, "budget": 0.5}, "energy and budget: exactly one"),
        ({"energy": 1.0}, "energy is 1.0; it must lie between 0 and 1, both excluded"),
        ({"budget": float("nan")}, "budget is nan"),
        ({"energy": 0.9, "scope": "global"}, "scope is 'global'; that needs budget"),
        ({"budget": 0.5, "scope": "all"}, "scope is 'all'; it must be uniform or global"),
        ({"budget": 0.5, "recurrent": "none"}, "recurrent is 'none'; it must be input or all"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Factorise(**settings)


def encoder_task(*, nested: bool) -> Task:
    from tests.export.nets import make_task

    def make() -> Any:
        from torch import nn

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                one = nn.TransformerEncoderLayer(16, 4, 48, batch_first=True)
                self.encoder = nn.TransformerEncoder(one, 2, enable_nested_tensor=nested)
                self.head = nn.Linear(16, 3)

            def forward(self, rows: torch.Tensor) -> Any:
                padding = (rows[..., 0] == 0) if nested else None
                return self.head(self.encoder(rows, src_key_padding_mask=padding)[:, 0])

        return Net()

    rows = np.random.default_rng(0).normal(size=(80, 5, 16)).astype(np.float32)
    if nested:
        rows[:, 3:] = 0  # the padding that torch's encoder turns into a nested tensor
    return make_task(make, (rows,))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
@pytest.mark.parametrize("nested", [False, True])
def test_an_encoder_of_torchs_own_runs_without_its_fused_kernel(nested: bool, tmp_path: Path) -> None:
    task = encoder_task(nested=nested)
    model: Any = task.load_model()
    thin: Any = apply_passes(copy.deepcopy(model), [Factorise(budget=0.5, only=("encoder.layers.0",))], task)
    assert len(thin.encoder.layers[0].linear1) == 2
    assert thin.encoder.layers[0].self_attn.in_proj_weight.equal(model.encoder.layers[0].self_attn.in_proj_weight)
    assert np.isfinite(predict(thin, task.test.inputs)[0]).all()
    if not nested:
        runs_in_both_formats(thin, task, tmp_path)


def runs_in_both_formats(model: Any, task: Task, folder: Path) -> None:
    for file_format in Format:
        target = Target(file_format, Precision.FP32)
        exported = export.export(model, target, task, folder)
        assert export.check_parity(exported, target, task).relative_rms_error < 1e-5


def test_a_gru_in_plain_steps_learns_again_and_runs_in_both_formats(trained_gru: Task, tmp_path: Path) -> None:
    full = trained_gru.load_model()
    passes: list[Pass] = [Factorise(budget=0.5, recurrent="all"), FineTune(3, 3e-3)]
    model = apply_passes(trained_gru.load_model(), passes, trained_gru)
    assert parameters(model) < 0.55 * parameters(full)
    assert count_macs(model, trained_gru.example) < 0.55 * count_macs(full, trained_gru.example)
    assert accuracy(model, trained_gru) > 0.8
    runs_in_both_formats(model, trained_gru, tmp_path)
