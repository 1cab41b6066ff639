import copy
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.compress import FineTune, PruneChannels, PruneHeads, PruneWeights, apply_passes
from edgedeploy.compress.held import masks_of
from edgedeploy.errors import CompressionError, NothingToDo
from edgedeploy.task import Task, predict
from tests.compress.measures import parameters, same_weights
from tests.compress.test_channels import task_with

pytestmark = pytest.mark.builds

PACKED = ("encoder.layers.0.self_attn", "encoder.layers.1.self_attn")


def packed_task() -> Task:
    """nn.TransformerEncoder of two layers, 32 wide with 4 heads."""
    from tests.export.nets import Transformer, digits_task

    return digits_task(Transformer)


def shaken(task: Task) -> Any:
    """The task's net with weights of its own in each layer: a fresh nn.TransformerEncoder has twins."""
    import torch

    model = task.load_model()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def norms(values: Any, output: Any, power: int) -> list[float]:
    return [
        float((values[8 * h : 8 * h + 8].abs() ** power).sum() + (output[:, 8 * h : 8 * h + 8].abs() ** power).sum())
        for h in range(4)
    ]


@pytest.mark.parametrize(("settings", "stay"), [({"ratio": 0.5}, 2), ({"heads": 1}, 1), ({"ratio": 0.9}, 1)])
@pytest.mark.parametrize("importance", ["l1", "l2"])
def test_packed_attention_computes_what_it_did_without_its_least_heads(
    settings: Any, stay: int, importance: Any
) -> None:
    import torch

    task = packed_task()
    full = shaken(task)
    pruned = apply_passes(copy.deepcopy(full), [PruneHeads(**settings, importance=importance)], task)
    for name in PACKED:
        output = full.get_parameter(f"{name}.out_proj.weight").detach()
        values = full.get_parameter(f"{name}.in_proj_weight").detach()[64:]
        scores = norms(values, output, int(importance[1]))
        with torch.no_grad():
            for head in sorted(range(4), key=scores.__getitem__)[: 4 - stay]:
                output[:, 8 * head : 8 * head + 8] = 0
        assert pruned.get_submodule(name).heads == stay
        assert pruned.get_parameter(f"{name}.query.weight").shape == (8 * stay, 32)
        assert pruned.get_parameter(f"{name}.out_proj.weight").shape == (32, 8 * stay)
    assert predict(pruned, task.test.inputs)[0] == pytest.approx(predict(full, task.test.inputs)[0], abs=1e-5)


def test_attention_written_by_hand_loses_its_heads_too(trained_transformer: Task) -> None:
    import torch

    full = trained_transformer.load_model()
    pruned = PruneHeads(ratio=0.25).apply(copy.deepcopy(full), trained_transformer)
    for block in ("blocks.0.attention", "blocks.1.attention"):
        assert pruned.get_submodule(block).heads == 3
        left = pruned.get_parameter(f"{block}.out.weight").T
        columns = full.get_parameter(f"{block}.out.weight")
        gone = ~(columns.T[:, None] == left[None]).all(-1).any(1)
        assert int(gone.sum()) == 16
        with torch.no_grad():
            columns[:, gone] = 0
    outputs = predict(full, trained_transformer.test.inputs)[0]
    assert predict(pruned, trained_transformer.test.inputs)[0] == pytest.approx(outputs, abs=1e-4)
    assert same_weights(pruned, PruneHeads(ratio=0.25).apply(trained_transformer.load_model(), trained_transformer))


def test_by_gradient_those_go_whose_gates_move_the_loss_least(trained_transformer: Task) -> None:
    import torch
    from torch.nn import functional as F

    full = trained_transformer.load_model()
    gates = {name: torch.ones(4, requires_grad=True) for name in ("blocks.0.attention", "blocks.1.attention")}
    for name, gate in gates.items():
        full.get_submodule(f"{name}.out").register_forward_pre_hook(
            lambda _, given, gate=gate: (given[0] * gate.repeat_interleave(16),)
        )
    split = trained_transformer.calibration
    scores = {name: torch.zeros(4) for name in gates}
    for rows, target in zip(torch.from_numpy(split.inputs[0]), torch.from_numpy(split.targets), strict=True):
        loss = F.cross_entropy(full(rows[None]), target[None])
        for name, gradient in zip(gates, torch.autograd.grad(loss, list(gates.values())), strict=True):
            scores[name] += gradient.abs()
    pruned = PruneHeads(heads=2, importance="gradient").apply(trained_transformer.load_model(), trained_transformer)
    for name, score in scores.items():
        best = sorted(torch.topk(score, 2).indices.tolist())
        before = full.get_parameter(f"{name}.query.weight").view(4, 16, -1)
        assert torch.equal(pruned.get_parameter(f"{name}.query.weight"), before[best].flatten(0, 1))
    assert all(parameter.grad is None for parameter in pruned.parameters())


def test_only_the_named_layers_lose_heads() -> None:
    from torch import nn

    task = packed_task()
    for settings in ({"only": ("encoder.layers.1",)}, {"skip": (PACKED[0],)}):
        model = PruneHeads(heads=2, **settings).apply(task.load_model(), task)  # type: ignore[arg-type]
        assert isinstance(model.get_submodule(PACKED[0]), nn.MultiheadAttention)
        assert model.get_submodule(PACKED[1]).heads == 2


def test_zeros_that_are_held_stay_zeros() -> None:
    task = packed_task()
    model = PruneWeights(0.5).apply(shaken(task), task)
    model = apply_passes(model, [PruneHeads(ratio=0.5)], task)
    zeros = model.get_parameter(f"{PACKED[0]}.value.weight") == 0
    assert zeros.any()
    model = PruneWeights(0.5).apply(shaken(task), task)
    model = PruneHeads(ratio=0.5).apply(model, task)
    assert (masks_of(model)[f"{PACKED[0]}.value.weight"] == ~zeros).all()
    model = apply_passes(model, [FineTune(1)], task)
    assert (model.get_parameter(f"{PACKED[0]}.value.weight")[zeros] == 0).all()


ATTENTION = """class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads, self.embed = 4, nn.Linear(1, 8)
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.out, self.head = nn.Linear(8, 8), nn.Linear(8, 3)
    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
    def forward(self, x):
        x = self.embed(x[..., None])
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        mixed = (query @ key.transpose(-1, -2) / 2).softmax(-1) @ value
        return self.head(self.out(mixed.transpose(1, 2).flatten(2)).mean(1))
"""


def changed(*changes: tuple[str, str]) -> str:
    text = ATTENTION
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


FUSED = changed(
    (
        "self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)",
        "self.all = nn.Linear(8, 24)",
    ),
    (
        "query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))",
        "query, key, value = self.all(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)",
    ),
)


CHUNKED = changed(
    ("self.query, self.key, self.value = ", "self.all = nn.Linear(8, 24)  # "),
    (
        "query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))",
        "query, key, value = (self.split(part) for part in self.all(x).chunk(3, dim=-1))",
    ),
)


@pytest.mark.parametrize("net", [FUSED, CHUNKED], ids=["by view", "by chunk"])
def test_attention_from_one_fused_layer_loses_heads(tmp_path: Path, net: str) -> None:
    task = task_with(tmp_path, net)
    full = task.load_model()
    model = apply_passes(task.load_model(), [PruneHeads(heads=1)], task)
    assert model.get_parameter("all.weight").shape == (6, 8)
    values, output = full.get_parameter("all.weight").detach()[16:], full.get_parameter("out.weight").detach()
    scores = [
        float((values[2 * h : 2 * h + 2] ** 2).sum() + (output[:, 2 * h : 2 * h + 2] ** 2).sum()) for h in range(4)
    ]
    best = scores.index(max(scores))
    rows = [row for block in range(3) for row in (8 * block + 2 * best, 8 * block + 2 * best + 1)]
    assert (model.get_parameter("all.weight") == full.get_parameter("all.weight")[rows]).all()


def test_width_inside_the_heads_of_a_fused_layer_goes_from_each_alike(tmp_path: Path) -> None:
    task = task_with(tmp_path, CHUNKED)
    full = task.load_model().get_parameter("all.weight")
    left = apply_passes(task.load_model(), [PruneChannels(0.5, only=("all",))], task).get_parameter("all.weight")
    stays = (full[:, None] == left[None]).all(-1).any(1).view(12, 2)
    assert (stays == stays[0]).all()
    assert int(stays.sum()) == 12


TWO_KEYS = "self.key(x).view(1, -1, 2, 4).transpose(1, 2).repeat(1, 2, 1, 1)[..., :2]"
BIAS = "self.bias = torch.ones(4, 1, 1); self.out, self.head ="
REFUSED = {
    "the net has no attention that it could find": "Net = lambda: nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))",
    "no attribute of that value": changed(("self.heads, -1", "4, -1"), ("self.heads, self", "self"), ("= 4, ", "= ")),
    "several attributes of that value": changed(
        ("self.heads, self", "self.heads, self.a_head, self"), ("= 4,", "= 4, 4,")
    ),
    "is split into 2 and 4 parts": changed(("self.split(self.key(x))", TWO_KEYS)),
    "something else than it did .* treat all heads of a layer alike": changed(
        ("mixed = (", "mixed = (1 + torch.arange(self.heads))[:, None, None] * (")
    ),
    "the net no longer runs .* take sizes from tensors": changed(
        ("/ 2)", "/ 2 + self.bias)"), ("self.out, self.head =", BIAS)
    ),
    "has no linear layer after attention": changed(("self.head(self.out(", "(("), (".mean(1))", ".mean(1)[:, :3])")),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_told_apart_is_refused_in_a_sentence(tmp_path: Path, message: str) -> None:
    task = task_with(tmp_path, REFUSED[message])
    with pytest.raises(CompressionError, match=f"^prune-heads: .*{message}"):
        apply_passes(task.load_model(), [PruneHeads(heads=1)], task)


def test_where_no_head_can_go_the_heads_are_listed() -> None:
    task = packed_task()
    with pytest.raises(NothingToDo, match=r"no head can go; there are: encoder.layers.0.self_attn 4, enc"):
        apply_passes(task.load_model(), [PruneHeads(heads=4)], task)
    with pytest.raises(CompressionError, match="no head can go"):
        apply_passes(task.load_model(), [PruneHeads(ratio=0.2)], task)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "ratio and heads say the same in two ways; give one of them"),
        ({"ratio": 0.5, "heads": 2}, "give one of them"),
        ({"ratio": 1.0}, "ratio is 1.0; it must lie between 0 and 1"),
        ({"heads": 0}, "heads is 0; it must be at least 1"),
        ({"heads": 1, "importance": "random"}, "importance is 'random'; it must be l1 or l2 or gradient"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PruneHeads(**settings)


def test_a_pruned_net_learns_again() -> None:
    task = packed_task()
    model = apply_passes(task.load_model(), [PruneHeads(ratio=0.5), FineTune(1, 1e-3)], task)
    assert parameters(model) < parameters(task.load_model())
