"""Layers of a TFLite file are known by the names of its tensors alone, so these are made to tell the net's modules."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedeploy.errors import ExportError
from edgedeploy.export.flatbuffer import is_constant, operator_name, read, write

if TYPE_CHECKING:
    import torch
    from torch import nn

# What the net itself is called among its modules; its own path is empty.
ROOT = "(net)"

# The operators that take weights, and at which of their inputs.
WEIGHT_INPUTS: Mapping[str, tuple[int, ...]] = {
    "BATCH_MATMUL": (1, 0),
    "CONV_2D": (1,),
    "CONV_3D": (1,),
    "DEPTHWISE_CONV_2D": (1,),
    "EMBEDDING_LOOKUP": (1,),
    "FULLY_CONNECTED": (1,),
    "GATHER": (0,),
    "TRANSPOSE_CONV": (1,),
}

_MARK = re.compile(r"\[([^\]]*)\]\.(\w+)[^;/]*;")


def mark(net: nn.Module) -> None:
    """Let the class of each module bear its path, for litert-torch names a tensor after the classes it comes from.

    Of the path itself it keeps the last part only, which the layers of two lists have in common.
    """
    for path, module in net.named_modules():
        kind = type(module)
        module.__class__ = type(kind.__name__, (kind,), {"__module__": f"[{path or ROOT}]"})


def name_layers(file: Path, net: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """Rename what the operators of a marked net's file give to `module:Class;number`.

    `module` is the one whose output the tensor holds. `;layer:Class` stands between where another owns the weights,
    as a convolution does into which its activation was folded.
    """
    returned = _order_of_return(net, inputs)
    weighted = {path or ROOT for path, module in net.named_modules() if _holds_weights(module)}
    model = read(file.read_bytes())
    number = 0
    for graph in model.subgraphs:
        for operator in graph.operators:
            marks = _marks(graph, operator.outputs)
            # An output of the file has lost its marks; then the constants tell whose the operator is.
            of_constants = _marks(graph, [i for i in operator.inputs if is_constant(model, graph, i)])
            made_by = max(marks or of_constants, key=lambda found: returned.get(found[0], -1), default=(ROOT, "Module"))
            parts = [made_by]
            weights = weight_index(model, graph, operator)
            if weights is not None:
                owner = next((found for found in (*marks, *of_constants) if found[0] in weighted), made_by)
                owner = _uncalled(net, owner, returned, model.buffers[graph.tensors[weights].buffer].data) or owner
                parts += [owner] if owner != made_by else []
            for index in operator.outputs:
                graph.tensors[index].name = ";".join(
                    [*(f"{path}:{kind}" for path, kind in parts), str(number)]
                ).encode()
                number += 1
    file.write_bytes(write(model))


def layers(model: Any) -> tuple[str, ...]:
    """The modules that own the weights of a file so named, in its order."""
    owners = {
        _modules(graph, operator)[-1][0]: None
        for graph in model.subgraphs
        for operator in graph.operators
        if weight_index(model, graph, operator) is not None
    }
    return tuple(owners)


def outputs(model: Any) -> dict[str, str]:
    """For each module the tensor that holds what it gives last, by name; a convolution's has its channels last.

    A module that was folded into the next one has no tensor of its own and is missing.
    """
    found: dict[str, str] = {}
    for graph in model.subgraphs:
        for operator in graph.operators:
            (path, _), *owner = _modules(graph, operator)
            for folded, _ in owner:
                found.pop(folded, None)
            parents = [path.rsplit(".", depth)[0] for depth in range(path.count(".") + 1)]
            found |= dict.fromkeys([*parents, ROOT], graph.tensors[operator.outputs[0]].name.decode())
    return found


def keeping(names: Collection[str], known: Collection[str]) -> str:
    """A pattern that fits what the operators of these layers give. Raises ExportError where one is not known."""
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ExportError(
            f"no layer {unknown[0]!r} to keep in float; the file has {', '.join(known) or 'none that holds weights'}"
        )
    paths = "|".join(re.escape(name) for name in sorted(names))
    return rf"^(?:[^;]*;)?(?:{paths}):\w+;\d"


def weight_index(model: Any, graph: Any, operator: Any) -> int | None:
    """The index of the tensor that holds an operator's weights, None where it has none or they are computed."""
    positions = WEIGHT_INPUTS.get(operator_name(model, operator), ())
    indices = (int(operator.inputs[position]) for position in positions)
    return next((index for index in indices if is_constant(model, graph, index)), None)


def _modules(graph: Any, operator: Any) -> list[tuple[str, str]]:
    parts = graph.tensors[operator.outputs[0]].name.decode().split(";")[:-1]
    return [(path, kind) for path, _, kind in (part.rpartition(":") for part in parts)]


def _marks(graph: Any, indices: Collection[int]) -> list[tuple[str, str]]:
    found = (match for index in indices for match in _MARK.findall(graph.tensors[index].name.decode()))
    return [(path, kind.removesuffix(f"_{path.rpartition('.')[2]}")) for path, kind in found]


def _holds_weights(module: nn.Module) -> bool:
    own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    return any(tensor.ndim > 1 for tensor in own)


def _uncalled(net: nn.Module, owner: tuple[str, str], returned: Collection[str], data: Any) -> tuple[str, str] | None:
    """The layer in `owner` that holds these weights and is never called, as the last one of torch's own attention."""
    for path, module in net.named_modules():
        if path.startswith(f"{owner[0]}.") and path not in returned:
            tensors = (tensor for tensor in module.parameters(recurse=False) if tensor.ndim > 1)
            if any(tensor.detach().numpy().tobytes() == bytes(data) for tensor in tensors):
                return path, type(module).__name__
    return None


def _order_of_return(net: nn.Module, inputs: tuple[torch.Tensor, ...]) -> dict[str, int]:
    import torch

    order: dict[str, int] = {}
    turn = itertools.count()

    def note(path: str) -> Callable[..., None]:
        return lambda *_: order.update({path: next(turn)})

    handles = [module.register_forward_hook(note(path or ROOT)) for path, module in net.named_modules()]
    with torch.no_grad():
        net(*inputs)
    for handle in handles:
        handle.remove()
    return order
