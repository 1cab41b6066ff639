"""Structured pruning of attention: whole heads go, and with them their part of the work."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from edgedeploy.compress import limits
from edgedeploy.compress.attention import spell_out
from edgedeploy.compress.checks import check_computes
from edgedeploy.compress.graph import hooked, splits_into_groups
from edgedeploy.compress.held import follow
from edgedeploy.compress.saliency import losses, trainable
from edgedeploy.compress.weights import chosen
from edgedeploy.errors import CompressionError, NothingToDo

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgedeploy.task import Task

_PROBED_EXAMPLES = 16
_KNOWN = ("l1", "l2", "gradient")


@dataclass(frozen=True, slots=True)
class PruneHeads:
    """Remove the share `ratio` of the heads of each attention layer, or all but `heads`, the least important first.

    Importance of a head is the norm of its part of the values' and of the output's matrix ("l1", "l2"), or how much the
    loss on the calibration split would change without it, by its first derivative ("gradient": Michel et al.,
    arXiv:1905.10650, section 4.1). At least one head stays. `only` and `skip` name attention layers.
    nn.MultiheadAttention is spelled out as separate linear layers first; attention written by hand must keep the
    number of its heads in one attribute and take all other sizes from tensors.
    """

    kind: ClassVar[str] = "prune-heads"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch",)

    ratio: float | None = None
    heads: int | None = None
    importance: Literal["l1", "l2", "gradient"] = "l2"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.ratio is None) == (self.heads is None):
            raise ValueError("ratio and heads say the same in two ways; give one of them")
        limits.share(self, "ratio")
        limits.at_least(self, heads=1)
        limits.one_of(self, importance=_KNOWN)

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Return the net without these heads; it computes what the net with their outputs at zero would.

        Raises NothingToDo where there is no attention or no head can go, CompressionError where heads cannot be told
        apart.
        """
        import torch

        model.eval()
        inputs = tuple(torch.from_numpy(array) for array in task.example)
        spelled_out = copy.deepcopy(model)
        spell_out(spelled_out)
        names = list(_projections(spelled_out, inputs))
        if not names:
            raise NothingToDo(
                f"{self.kind}: the net has no attention that it could find: no nn.MultiheadAttention (without "
                "add_bias_kv and add_zero_attn), and no linear layers whose outputs are split into heads at once by "
                "view, reshape or unflatten; leave this pass out"
            )
        names = chosen(self.kind, names, self.only, self.skip)
        model = copy.deepcopy(model)
        spell_out(model, names)
        parts = _projections(model, inputs)
        layers = [_found(self.kind, name, parts[name], model, inputs) for name in names]
        gone = {layer.name: self._gone(layer, model, task) for layer in layers}
        if not any(gone.values()):
            there = ", ".join(f"{layer.name} {layer.heads}" for layer in layers)
            raise NothingToDo(f"{self.kind}: no head can go; there are: {there}")
        masked = copy.deepcopy(model)
        for layer in layers:
            _mask(masked, layer, gone[layer.name])
        for layer in layers:
            _cut(model, layer, gone[layer.name])
        follow(model, model)
        check_computes(
            self.kind,
            model,
            masked,
            tuple(torch.from_numpy(array) for array in task.calibration.spread(_PROBED_EXAMPLES)),
            than="it did with the outputs of the heads that went at zero",
            mend="let forward() treat all heads of a layer alike and take sizes from tensors, or name it in skip",
        )
        return model

    def _gone(self, layer: _Layer, model: nn.Module, task: Task) -> list[int]:
        """The heads of one layer that go, the least important ones."""
        import torch

        keep = self.heads if self.heads is not None else layer.heads - int(layer.heads * (self.ratio or 0))
        count = layer.heads - max(keep, 1)
        if count <= 0:
            return []
        scores = _by_gradient(layer, model, task) if self.importance == "gradient" else self._by_norm(layer, model)
        return sorted(torch.argsort(scores, stable=True)[:count].tolist())

    def _by_norm(self, layer: _Layer, model: nn.Module) -> torch.Tensor:
        import torch

        power = int(self.importance[1])
        values = model.get_parameter(f"{layer.values[0]}.weight").detach()
        values = values.chunk(layer.blocks)[layer.values[1]].reshape(layer.heads, -1)
        output = model.get_parameter(f"{layer.output}.weight").detach().T.reshape(layer.heads, -1)
        return torch.cat([values, output], dim=1).abs().pow(power).sum(1)


@dataclass(frozen=True, slots=True)
class _Layer:
    """Where one attention layer keeps its heads.

    The rows of each of `projections` are `blocks` times `heads` times the width of a head, as the columns of `output`
    are without blocks; `values` says which projection, and which block of it, makes the values.
    """

    name: str
    attribute: str
    heads: int
    blocks: int
    projections: tuple[str, ...]
    values: tuple[str, int]
    output: str


def _projections(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> dict[str, dict[str, int]]:
    """Module name -> the linear layers right in it whose outputs are split, and into how many parts."""
    groups = splits_into_groups(model, inputs)
    found: dict[str, dict[str, int]] = {}
    for name, module in model.named_modules():
        if module in groups:
            found.setdefault(name.rpartition(".")[0], {})[name] = groups[module]
    return found


def _found(kind: str, name: str, parts: dict[str, int], model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> _Layer:
    """The attention layer of that name and projections. Raises CompressionError where heads cannot be told apart."""
    (count, *others) = sorted(set(parts.values()))
    blocks = 3 if len(parts) == 1 else 1  # queries, keys and values from one layer
    if others or count % blocks:
        numbers = " and ".join(str(number) for number in (count, *others))
        raise CompressionError(
            f"{kind}: {name} is split into {numbers} parts, not into as many heads for queries, keys and values; "
            "name it in skip"
        )
    heads = count // blocks
    holding = [key for key, value in vars(model.get_submodule(name)).items() if type(value) is int and value == heads]
    if len(holding) > 1:
        holding = [key for key in holding if key.endswith(("head", "heads"))]
    if len(holding) != 1:
        raise CompressionError(
            f"{kind}: {name} has {heads} heads, but {'several attributes' if holding else 'no attribute'} of that "
            "value to change; keep the number in one called `heads` and let forward() use it, or name the layer in skip"
        )
    output = _output(kind, name, list(parts), model, inputs)
    values = next(
        (
            (part, block)
            for part in parts
            for block in range(blocks)
            if _silences(part, block, blocks, output, model, inputs)
        ),
        None,
    )
    if values is None:
        raise CompressionError(f"{kind}: nothing in {name} makes the values that {output} mixes; name it in skip")
    return _Layer(name, holding[0], heads, blocks, tuple(parts), values, output)


def _output(kind: str, name: str, parts: list[str], model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> str:
    """The linear layer that is run next after the projections of an attention layer."""
    import torch
    from torch import nn

    order: list[str] = []
    linears = [(other, module) for other, module in model.named_modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_hook(lambda *_, other=other: order.append(other)) for other, module in linears]
    with hooked(hooks), torch.no_grad():
        model(*inputs)
    after = order[max(order.index(part) for part in parts) + 1 :]
    if not after or not after[0].startswith(f"{name}." if name else ""):
        raise CompressionError(
            f"{kind}: {name} has no linear layer after attention, whose inputs could go; name it in skip"
        )
    return after[0]


def _silences(
    part: str, block: int, blocks: int, output: str, model: nn.Module, inputs: tuple[torch.Tensor, ...]
) -> bool:
    """Whether nothing reaches the output layer where one block of a projection is zero, as only the values' is."""
    import torch

    loudest: list[float] = []

    def silent(_: Any, __: Any, result: torch.Tensor) -> torch.Tensor:
        pieces = list(result.chunk(blocks, dim=-1))
        pieces[block] = torch.zeros_like(pieces[block])
        return torch.cat(pieces, dim=-1)

    hooks = [
        model.get_submodule(part).register_forward_hook(silent),
        model.get_submodule(output).register_forward_pre_hook(
            lambda _, given: loudest.append(given[0].abs().max().item())
        ),
    ]
    with hooked(hooks), torch.no_grad():
        model(*inputs)
    return loudest[0] == 0


def _by_gradient(layer: _Layer, model: nn.Module, task: Task) -> torch.Tensor:
    """The mean over examples of |sum of (head's output times gradient there)|: the change of loss without the head."""
    import torch

    seen: list[torch.Tensor] = []
    hook = model.get_submodule(layer.output).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    total = torch.zeros(layer.heads)
    with hook, trainable(model):
        for loss in losses(model, task):
            for mixed, gradient in zip(seen, torch.autograd.grad(loss, seen), strict=True):
                lost = (mixed * gradient).detach().reshape(-1, layer.heads, mixed.shape[-1] // layer.heads)
                total += lost.sum((0, 2)).abs()
            seen.clear()
    return total


def _places(heads: list[int], there: int, blocks: int, width: int) -> torch.Tensor:
    """True for each of `width` rows or columns that belongs to one of these heads."""
    import torch

    chosen_heads = torch.zeros(there, dtype=torch.bool)
    chosen_heads[heads] = True
    return chosen_heads.repeat(blocks).repeat_interleave(width // (there * blocks))


def _mask(model: nn.Module, layer: _Layer, gone: list[int]) -> None:
    output = model.get_parameter(f"{layer.output}.weight")
    output.data[:, _places(gone, layer.heads, 1, output.shape[1])] = 0


def _cut(model: nn.Module, layer: _Layer, gone: list[int]) -> None:
    for name in layer.projections:
        linear: Any = model.get_submodule(name)
        stays = ~_places(gone, layer.heads, layer.blocks, linear.out_features)
        linear.weight = _part(linear.weight, stays, 0)
        if linear.bias is not None:
            linear.bias = _part(linear.bias, stays, 0)
        linear.out_features = int(stays.sum())
    output: Any = model.get_submodule(layer.output)
    stays = ~_places(gone, layer.heads, 1, output.in_features)
    output.weight = _part(output.weight, stays, 1)
    output.in_features = int(stays.sum())
    setattr(model.get_submodule(layer.name), layer.attribute, layer.heads - len(gone))


def _part(parameter: nn.Parameter, stays: torch.Tensor, axis: int) -> nn.Parameter:
    from torch import nn

    part = parameter.detach().index_select(axis, stays.nonzero().flatten()).clone()
    return nn.Parameter(part, requires_grad=parameter.requires_grad)
