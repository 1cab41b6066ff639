"""A source net may come as a file that others made: a .pt2 that torch.export saved, or an .onnx."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedeploy.errors import PlanError
from edgedeploy.onnx_session import open_session, translated
from edgedeploy.task.definition import Arrays
from edgedeploy.task.onnx_source import OnnxSource, read_onnx

if TYPE_CHECKING:
    import torch
    from torch import nn

SUFFIXES = (".onnx", ".pt2")


def source_net(file: Path, example: Arrays) -> tuple[Callable[[], nn.Module], tuple[Path, ...]]:
    """What builds the net of a source file, and all files that it was read from. Raises PlanError."""
    if file.suffix == ".onnx":
        source = read_onnx(file, example)
        return lambda: net_of_onnx(source), source.files
    if file.suffix == ".pt2":
        return lambda: net_of_program(file), (file.resolve(),)
    raise PlanError(f"{file}: a source net is a .pt2 or an .onnx file")


def net_of_program(file: Path) -> nn.Module:
    """The net in a .pt2 file, which torch.load runs as code; its `frozen_batch` is the one batch it takes, or None.

    Raises PlanError where torch.export.save did not write it, or a torch that this one cannot read.
    """
    import torch

    try:
        program = torch.export.load(file)
    except (RuntimeError, ValueError, TypeError, AssertionError, LookupError, OSError, zipfile.BadZipFile) as error:
        said = " ".join(str(error).split())[:200]
        raise PlanError(
            f"{file}: not a program that torch.export.save wrote, or one of another torch than "
            f"{torch.__version__} ({type(error).__name__}: {said})"
        ) from error
    return _batched(program.module(), _frozen_batch(file, program))


def net_of_onnx(source: OnnxSource) -> nn.Module:
    """The net of an ONNX file, run by onnxruntime; `onnx_source` is the file's clean copy, for the exporter."""
    import numpy as np
    import onnx
    import torch
    from torch import nn

    session = open_session(source.content)
    names = [entry.name for entry in session.get_inputs()]
    weights = [onnx.numpy_helper.to_array(t) for t in onnx.load_from_string(source.content).graph.initializer]

    class OnnxNet(nn.Module):
        """Holds the weights to be counted; onnxruntime has its own."""

        def __init__(self) -> None:
            super().__init__()
            floats = [torch.from_numpy(np.array(weight)) for weight in weights if weight.dtype == np.float32]
            self.weights = nn.ParameterList(nn.Parameter(weight, requires_grad=False) for weight in floats)
            self.onnx_source = source

        def __deepcopy__(self, memo: dict[int, Any]) -> OnnxNet:
            return self  # a session cannot be copied, and nothing here changes

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            feed = {name: one.detach().numpy() for name, one in zip(names, inputs, strict=True)}
            with translated(lambda error: ValueError(f"onnxruntime: {error}")):
                outputs = session.run(None, feed)
            return tuple(torch.from_numpy(np.array(output)) for output in outputs)

    return _batched(OnnxNet(), source.frozen_batch)


def _frozen_batch(file: Path, program: Any) -> int | None:
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    inputs = [values.get(name) for name in program.graph_signature.user_inputs]
    shapes = [getattr(value, "shape", ()) for value in inputs]
    if not shapes or not all(shapes):
        raise PlanError(f"{file}: an input of the program is no tensor with a batch axis; export it with tensors alone")
    batch = next(iter(shapes[0]))
    return batch if isinstance(batch, int) else None


def _batched(net: nn.Module, frozen_batch: int | None) -> nn.Module:
    """The net behind an ordinary module: train() and eval() do not fail, and any batch goes through a frozen one."""
    from torch import nn

    class SourceNet(nn.Module):
        """A graph without layers."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net
            self.frozen_batch = frozen_batch
            self.onnx_source = getattr(net, "onnx_source", None)
            self.training = False

        def train(self, mode: bool = True) -> SourceNet:
            # What dropout and batch norm do was settled when the graph was made, and a program refuses to be asked.
            self.training = mode
            return self

        def forward(self, *inputs: torch.Tensor) -> Any:
            if self.frozen_batch is None or len(inputs[0]) == self.frozen_batch:
                return self.net(*inputs)
            return _in_pieces(self.net, inputs, self.frozen_batch)

    return SourceNet()


def _in_pieces(net: Callable[..., Any], inputs: tuple[torch.Tensor, ...], batch: int) -> tuple[torch.Tensor, ...]:
    """Call after call of `batch` examples, the last one filled up with the first examples."""
    import torch

    examples = len(inputs[0])
    rows = torch.arange(math.ceil(examples / batch) * batch) % examples
    parts = [net(*(one[chosen] for one in inputs)) for chosen in torch.split(rows, batch)]
    columns = zip(*((part if isinstance(part, (tuple, list)) else (part,)) for part in parts), strict=True)
    return tuple(torch.cat(column)[:examples] for column in columns)
