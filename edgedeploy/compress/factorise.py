"""Low rank: a layer becomes two thin ones in a row, with fewer weights and less to compute."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from edgedeploy.compress import limits
from edgedeploy.compress.checks import check_computes
from edgedeploy.compress.graph import hooked
from edgedeploy.compress.held import masks_of, shared_of
from edgedeploy.compress.low_rank import (
    Decomposition,
    decomposed,
    ranks_by_budget,
    ranks_by_common_budget,
    ranks_by_energy,
)
from edgedeploy.compress.unrolled import Factors, linear, projected, unrolled
from edgedeploy.compress.weights import chosen, joined
from edgedeploy.errors import CompressionError, NothingToDo

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgedeploy.task import Task

_CHECKED_EXAMPLES = 16


@dataclass(frozen=True, slots=True, eq=False)
class _Weight:
    """A weight of a layer as the matrix that can be factorised; tensors that share one stand below each other."""

    layer: str
    tensors: tuple[str, ...]
    matrix: torch.Tensor


@dataclass(frozen=True, slots=True)
class Factorise:
    """Replace weights of linear, convolutional, embedding and recurrent layers by products of two thin matrices.

    Each is cut off at a rank, from its singular values (for convolutions those over the output channels: k x k to rank
    channels, then 1 x 1; Denton et al., arXiv:1404.0736). Either `energy` says which share of the squared singular
    values remains, or `budget` which share of the weights: "uniform" of each layer's, "global" of all together. Layers
    that would not get smaller are left whole, and so are grouped convolutions and nn.MultiheadAttention.

    Of recurrent layers "input" factorises what the first of them reads, "all" every matrix: that needs plain steps
    instead of the fused operator, see `unrolled`. `only` and `skip` name layers or weights. It needs no data; train the
    net afterwards.
    """

    kind: ClassVar[str] = "factorise"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch",)

    energy: float | None = None
    budget: float | None = None
    scope: Literal["uniform", "global"] = "uniform"
    recurrent: Literal["input", "all"] = "input"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.energy is None) == (self.budget is None):
            raise ValueError("energy and budget: exactly one of them must be given, to say where to cut off")
        limits.share(self, "energy", "budget")
        limits.one_of(self, scope=("uniform", "global"), recurrent=("input", "all"))
        if self.scope == "global" and self.budget is None:
            raise ValueError("scope is 'global'; that needs budget, for energy is a matter of each layer by itself")

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Return a copy of thin layers, which computes what the net does with the weights cut off.

        Raises CompressionError where nothing would get smaller, zeros or shared weights are held in what would be
        replaced, or the net reads a weight otherwise than by running its layer; the net is left whole.
        """
        import torch

        model.eval()
        inputs = tuple(torch.from_numpy(array) for array in task.calibration.spread(_CHECKED_EXAMPLES))
        weights = self._weights(model, inputs)
        matrices = {name: decomposed(weight.matrix) for name, weight in weights.items()}
        ranks = {name: rank for name, rank in self._ranks(matrices).items() if matrices[name].saves(rank)}
        if not ranks:
            raise NothingToDo(
                f"{self.kind}: nothing was factorised: at {self._asked()} no layer would have fewer weights than now; "
                "lower it, or leave this pass out"
            )
        for name in ranks:
            self._check_free(model, weights[name])
        factors = {name: matrices[name].factors(rank, weights[name].matrix.dtype) for name, rank in ranks.items()}
        thin = _replaced(copy.deepcopy(model), weights, factors)
        check_computes(
            self.kind,
            thin,
            _cut_off(copy.deepcopy(model), weights, factors),
            inputs,
            than="with the same weights in one piece",
            mend="layers must be used by calling them alone, not by their weights or sizes: mend that, or name in skip "
            f"the one that is not, of {', '.join(dict.fromkeys(weights[name].layer for name in ranks))}",
        )
        return thin

    def _asked(self) -> str:
        return f"energy {self.energy}" if self.energy is not None else f"budget {self.budget}"

    def _ranks(self, matrices: Mapping[str, Decomposition]) -> dict[str, int]:
        if self.energy is not None:
            return ranks_by_energy(matrices, self.energy)
        by_budget = ranks_by_common_budget if self.scope == "global" else ranks_by_budget
        return by_budget(matrices, self.budget or 0.0)

    def _weights(self, model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> dict[str, _Weight]:
        called = _called(model, inputs)
        tied = _tied(model)
        found = {
            weight.tensors[0]: weight
            for name, module in model.named_modules()
            if name in called
            for weight in _weights_of(name, module, every=self.recurrent == "all")
            if not tied.intersection(weight.tensors)
        }
        if not found:
            raise NothingToDo(
                f"{self.kind}: the net has no linear, convolutional, embedding or recurrent layer of torch's own kinds "
                "with a weight to itself; leave this pass out"
            )
        return {name: found[name] for name in chosen(self.kind, list(found), self.only, self.skip)}

    def _check_free(self, model: nn.Module, weight: _Weight) -> None:
        held = {"zeros": masks_of(model), "shared weights": shared_of(model)}
        for what, names in held.items():
            name = next((name for name in weight.tensors if name in names), None)
            if name is not None:
                raise CompressionError(
                    f"{self.kind}: the {what} that an earlier pass holds in {name} would be lost, for a product of two "
                    f"matrices has none of them; put {self.kind} first, or name {weight.layer} in skip"
                )


def _weights_of(name: str, module: Any, *, every: bool) -> Iterator[_Weight]:
    """What of a layer can be factorised. A kind derived from torch's may do anything with its weights, so it is not."""
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    if type(module) in (nn.RNN, nn.LSTM, nn.GRU) and not module.proj_size:
        tensors = [last for names in module._all_weights for last in names if last.startswith("weight")]
        if every:
            yield from (_Weight(name, (joined(name, last),), getattr(module, last)) for last in tensors)
            return
        together = [last for last in tensors if last in ("weight_ih_l0", "weight_ih_l0_reverse")]
        matrix = _below([getattr(module, last) for last in together])
        yield _Weight(name, tuple(joined(name, last) for last in together), matrix)
        return
    is_plain = type(module) in (nn.Linear, nn.Embedding) or (
        isinstance(module, _ConvNd) and type(module).__module__ == _ConvNd.__module__ and module.groups == 1
    )
    renormalised = isinstance(module, nn.Embedding) and module.max_norm is not None
    if is_plain and not renormalised and "weight" in module._parameters:  # elsewhere it is computed from others
        yield _Weight(name, (joined(name, "weight"),), module.weight.flatten(1))


def _replaced(model: nn.Module, weights: Mapping[str, _Weight], factors: Mapping[str, Factors]) -> nn.Module:
    from torch import nn

    of_layers: dict[str, dict[str, Factors]] = {}
    for name, pair in factors.items():
        of_layers.setdefault(weights[name].layer, {})[name] = pair
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    for layer, found in of_layers.items():
        module = model.get_submodule(layer)
        thin = _thin(layer, module, found)
        for parameter in thin.parameters():
            parameter.requires_grad_(next(module.parameters()).requires_grad)
        thin.eval()
        if not layer:
            return thin
        for name in names[id(module)]:
            model.set_submodule(name, thin)
    for name, module in model.named_modules():
        inside = [layer for layer in of_layers if layer.startswith(f"{name}.") or not name]
        if inside and isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # its fused kernel reads the weights of whole layers
        if inside and isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # before it makes them, it reads the weights of its first layer
    return model


def _thin(name: str, module: Any, found: Mapping[str, Factors]) -> nn.Module:
    """Layers in a row, of these factors by the name of the weight, that do what the one did."""
    from torch import nn

    pair = next(iter(found.values()))
    if isinstance(module, nn.RNNBase):
        by_tensor = {weight.removeprefix(f"{name}."): factors for weight, factors in found.items()}
        together = (1 + module.bidirectional) * len(module.get_parameter("weight_ih_l0"))
        if list(by_tensor) == ["weight_ih_l0"] and len(pair[0]) == together:
            return projected(module, pair)
        return unrolled(module, by_tensor)
    if isinstance(module, nn.Linear):
        return linear(pair, module.bias)
    if isinstance(module, nn.Embedding):
        rows, out = pair
        settings: Any = {"scale_grad_by_freq": module.scale_grad_by_freq, "sparse": module.sparse}
        table = nn.Embedding(len(rows), rows.shape[1], padding_idx=module.padding_idx, **settings)
        if module.padding_idx is not None and not bool(module.weight[module.padding_idx].any()):
            rows[module.padding_idx] = 0  # where rounding would leave something that no training takes away
        table.weight = nn.Parameter(rows.clone())
        return nn.Sequential(table, linear(out.T, None))
    return _thin_convolution(module, *pair)


def _thin_convolution(module: Any, rows: torch.Tensor, columns: torch.Tensor) -> nn.Module:
    from torch import nn

    rank, kernel = len(columns), module.kernel_size
    shared = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}
    shared["padding_mode"] = module.padding_mode
    if module.transposed:
        shared["output_padding"] = module.output_padding
    pointwise_kind: Any = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(kernel)]
    ones = [1] * len(kernel)
    with_bias = module.bias is not None
    if module.transposed:  # its weight has the inputs first, which are mixed before the kernels spread them
        first = pointwise_kind(module.in_channels, rank, 1, bias=False)
        second = type(module)(rank, module.out_channels, kernel, bias=with_bias, **shared)
        first.weight = nn.Parameter(rows.T.reshape(rank, module.in_channels, *ones).contiguous())
        second.weight = nn.Parameter(columns.reshape(rank, module.out_channels, *kernel).clone())
    else:
        first = type(module)(module.in_channels, rank, kernel, bias=False, **shared)
        second = pointwise_kind(rank, module.out_channels, 1, bias=with_bias)
        first.weight = nn.Parameter(columns.reshape(rank, module.in_channels, *kernel).clone())
        second.weight = nn.Parameter(rows.reshape(module.out_channels, rank, *ones).clone())
    if with_bias:
        second.bias = nn.Parameter(module.bias.detach().clone())
    return nn.Sequential(first, second)


def _cut_off(model: nn.Module, weights: Mapping[str, _Weight], factors: Mapping[str, Factors]) -> nn.Module:
    """The net with the products in place of the weights that they stand for."""
    import torch

    with torch.no_grad():
        for name, (left, right) in factors.items():
            product = left.double() @ right.double()
            for tensor, part in zip(weights[name].tensors, product.chunk(len(weights[name].tensors)), strict=True):
                parameter = model.get_parameter(tensor)
                parameter.copy_(part.reshape(parameter.shape))
    return model


def _called(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> set[str]:
    """The modules that a forward pass calls: one whose weight is read otherwise cannot be replaced."""
    import torch

    found: set[str] = set()
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: found.add(name))
        for name, module in model.named_modules()
    ]
    with hooked(hooks), torch.no_grad():
        model(*inputs)
    return found


def _tied(model: nn.Module) -> set[str]:
    """Names of weights that several layers have together."""
    owners: dict[int, set[str]] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            owners.setdefault(id(parameter), set()).add(joined(prefix, name))
    return {name for names in owners.values() if len(names) > 1 for name in names}


def _below(parts: list[torch.Tensor]) -> torch.Tensor:
    import torch

    return torch.cat([part.detach() for part in parts])
