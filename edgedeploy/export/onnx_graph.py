"""What the steps that rewrite an ONNX graph have in common: layers, their weights, names that do not clash."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn

_LAYER, _MODULE = "layer", "module"
_RECURRENT = ("GRU", "LSTM", "RNN")


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A weight that a node reads: where it stands among the inputs, and which of its axes counts the outputs."""

    node: Any
    position: int
    name: str
    axis: int

    @property
    def layer(self) -> str:
        """The node's layer."""
        return layer_of(self.node)


class Constants:
    """The initializers of a graph by name; new ones are added to it."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> np.ndarray:
        from onnx import numpy_helper

        array: np.ndarray = numpy_helper.to_array(self._tensors[name])
        return array

    def is_float(self, name: str) -> bool:
        """Whether there is such a constant, of floats."""
        from onnx import TensorProto

        return name in self._tensors and self._tensors[name].data_type == TensorProto.FLOAT

    def rank(self, name: str) -> int:
        """The number of its axes."""
        return len(self._tensors[name].dims)

    def add(self, name: str, array: np.ndarray) -> str:
        """Add one, or find the one of this name."""
        from onnx import numpy_helper

        if name not in self._tensors:
            tensor = self._graph.initializer.add()
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
            self._tensors[name] = tensor
        return name

    def replace(self, name: str, array: np.ndarray) -> None:
        """Give it another value."""
        from onnx import numpy_helper

        self._tensors[name].CopyFrom(numpy_helper.from_array(array, name))


def weights(graph: Any, keep_float: Collection[str] = ()) -> Iterator[Weight]:
    """The float weights of all layers but those of `keep_float`, in the order of the graph."""
    constants = Constants(graph)
    for node in graph.node:
        if layer_of(node) in keep_float:
            continue
        for position, axis in _places(node, constants):
            name = node.input[position] if position < len(node.input) else ""
            if constants.is_float(name) and constants.rank(name) > 1:
                yield Weight(node, position, name, axis % constants.rank(name))


def _places(node: Any, constants: Constants) -> tuple[tuple[int, int], ...]:
    """Position of each weight among the inputs, with the axis of its output channels."""
    if node.op_type == "Conv":
        return ((1, 0),)
    if node.op_type == "ConvTranspose":
        return ((1, 1),)
    if node.op_type == "Gemm":
        return ((1, 0 if attribute(node, "transB", 0) else 1),)
    if node.op_type == "MatMul":
        return ((0, -2),) if node.input[0] in constants else ((1, -1),)
    if node.op_type in _RECURRENT:
        return ((1, 1), (2, 1))
    return ((0, 0),) if node.op_type == "Gather" and attribute(node, "axis", 0) == 0 else ()


def attribute(node: Any, name: str, default: Any) -> Any:
    """The value of a node's attribute."""
    from onnx import helper

    return next((helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


def layer_of(node: Any) -> str:
    """The path in the net of the module that the node came from; empty where it is not known."""
    return _noted(node, _LAYER)


def _noted(node: Any, key: str) -> str:
    return next((entry.value for entry in node.metadata_props if entry.key == key), "")


def scopes(proto: Any) -> dict[str, str]:
    """Path in the net by tensor, as the exporter noted it on the node that gives the tensor."""
    import ast

    found: dict[str, str] = {}
    for node in proto.graph.node:
        noted = next((one.value for one in node.metadata_props if one.key == "pkg.torch.onnx.name_scopes"), "[]")
        path = ast.literal_eval(noted)[:-1]  # the last is the operator
        found |= dict.fromkeys(node.output, path[-1] if path else "")
    return found


def name_layers(proto: Any, paths: Mapping[str, str], model: nn.Module) -> None:
    """Note on each node its module and its layer, and name it after that; `paths` are the scopes of before.

    The layer is the module that holds the weight where the exporter's scope is that of a batch norm, which it folds
    into the layer before, or of a module around this one.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    modules = dict(model.named_modules())
    parameters = {name for name, _ in model.named_parameters()}
    for index, node in enumerate(proto.graph.node):
        path = module = next((paths[name] for name in node.output if name in paths), "")
        held = [name for name in node.input if name in parameters]
        if held and node.op_type != "LayerNormalization":
            owner, _, own = held[0].rpartition(".")
            if not owner or owner.startswith(f"{path}.") or not path or isinstance(modules.get(path), _BatchNorm):
                path = owner or path or own
        del node.metadata_props[:]
        node.metadata_props.add(key=_LAYER, value=path or node.output[0])
        node.metadata_props.add(key=_MODULE, value=module)
        node.name = f"{path or node.output[0]}/{index}"


def layers(graph: Any) -> tuple[str, ...]:
    """The layers that hold weights, in the order of the graph."""
    return tuple(dict.fromkeys(weight.layer for weight in weights(graph)))


def last_outputs(graph: Any) -> dict[str, str]:
    """By path of each module of the net, the tensor that its last node gives; a folded batch norm has its layer's."""
    last: dict[str, str] = {}
    for node in graph.node:
        parts = _noted(node, _MODULE).split(".")
        for depth in range(len(parts)):
            last[".".join(parts[: depth + 1])] = node.output[0]
    last.pop("", None)
    return last
