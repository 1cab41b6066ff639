"""Where an exported file first strays from its source: the output of each module beside the same tensor of the file."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedeploy.errors import ExportError
from edgedeploy.export import EXPORTERS, FloatFile, convert
from edgedeploy.export.parity import TOLERANCE
from edgedeploy.records import Target
from edgedeploy.task import Arrays, Task

if TYPE_CHECKING:
    from torch import nn

EXAMPLES = 16

Outputs = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class LayerError:
    """How far one layer's output strays: rms(file - source) / rms(source).

    `relative_rms_error` is None where the file holds no such tensor, and `why` then says so. `kind` is the module's
    class, empty where the source is a graph without modules.
    """

    layer: str
    kind: str
    relative_rms_error: float | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class LayerErrors:
    """The layers, modules without modules inside, in the order in which they finish.

    `first_above` is the first that strays by more than `tolerance`, that of the target's precision; `largest_jump` the
    one whose error grew most over that of the layer before. `source` is what the file was held against.
    """

    layers: tuple[LayerError, ...]
    tolerance: float
    first_above: str | None
    largest_jump: str | None
    examples: int
    source: str


def compare_layers(
    model: nn.Module, target: Target, task: Task, keep_float: Collection[str], artifact: bytes, folder: Path
) -> LayerErrors:
    """Export the net again with its names kept, in `folder`, and hold every layer's output against the net's.

    Raises ExportError where that gives another file than `artifact`: then it is not the one that would be looked at.
    """
    exporter = EXPORTERS[target.format]
    source = convert(model, target.format, task, folder, target.batch)
    content = exporter.named(source.path, target, task, keep_float)
    if exporter.strip(content) != artifact:
        raise ExportError(
            "made again, the file comes out with other bytes, so its layers would not be those of the variant; "
            "where tools have changed since, build it again"
        )
    return layer_errors(model, target, task, source, content)


def layer_errors(model: nn.Module, target: Target, task: Task, source: FloatFile, content: bytes) -> LayerErrors:
    """The same for `content`, a file with the names of `source`, the net's float file. Raises ExportError."""
    exporter = EXPORTERS[target.format]
    tensors = exporter.outputs(source.path)
    run = exporter.tracer(content, tuple(tensors.values()))
    example = tuple(array[:1] for array in task.selection.inputs)
    if hasattr(model, "frozen_batch") or not _module_outputs(model, example)[0]:  # a graph without modules
        kinds, reference = (
            dict.fromkeys(tensors, ""),
            exporter.tracer(source.path.read_bytes(), tuple(tensors.values())),
        )
        beside = "the float file"

        def outputs(inputs: Arrays) -> tuple[Outputs, dict[str, str]]:
            found = {name: array for name, array in reference(inputs).items() if array.dtype.kind == "f"}
            return {layer: found[name] for layer, name in tensors.items() if name in found}, kinds
    else:
        beside = "the net"

        def outputs(inputs: Arrays) -> tuple[Outputs, dict[str, str]]:
            return _module_outputs(model, inputs)

    count = min(EXAMPLES, len(task.selection))
    strays: dict[str, _Stray] = {}
    for inputs in _calls(task, target.static_batch or count, count):
        file_outputs = run(inputs)
        net_outputs, kinds = outputs(inputs)
        for layer, wanted in net_outputs.items():
            stray = strays.setdefault(layer, _Stray(kinds[layer]))
            stray.add(wanted, file_outputs.get(tensors.get(layer, "")))
    return _judged(tuple(stray.result(layer) for layer, stray in strays.items()), target, count, beside)


def _judged(layers: tuple[LayerError, ...], target: Target, examples: int, source: str) -> LayerErrors:
    tolerance = TOLERANCE[target.precision]
    known = [(one.layer, one.relative_rms_error) for one in layers if one.relative_rms_error is not None]
    above = next((layer for layer, error in known if error > tolerance), None)
    grown = [(error - before, layer) for (_, before), (layer, error) in zip([("", 0.0), *known], known, strict=False)]
    jump = max(grown, default=(0.0, None), key=lambda one: one[0])
    return LayerErrors(layers, tolerance, above, jump[1] if jump[0] > 0 else None, examples, source)


def _calls(task: Task, batch: int, examples: int) -> Iterator[Arrays]:
    """The first examples of the selection split in whole calls, the last one filled up."""
    for start in range(0, examples, batch):
        rows = np.arange(start, start + batch) % len(task.selection)
        yield tuple(array[rows] for array in task.selection.inputs)


def _module_outputs(model: nn.Module, inputs: Arrays) -> tuple[Outputs, dict[str, str]]:
    """What each module that called no other gave last, in the order in which they finished, and its class.

    What a module around others gives may be computed anywhere in a file; its parts are told apart, it is not.
    """
    import torch

    found: dict[str, torch.Tensor] = {}
    around: set[str] = set()

    def note(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            parts = path.split(".")
            around.update(".".join(parts[:depth]) for depth in range(len(parts)))
            found.pop(path, None)
            if (first := next(_tensors(output), None)) is not None:
                found[path] = first

        return hook

    modules = {path: module for path, module in model.named_modules() if path}
    handles = [module.register_forward_hook(note(path)) for path, module in modules.items()]
    try:
        with torch.no_grad():
            model(*(torch.as_tensor(array) for array in inputs))
    finally:
        for handle in handles:
            handle.remove()
    kinds = {path: type(module).__name__ for path, module in modules.items()}
    return {path: tensor.cpu().numpy() for path, tensor in found.items() if path not in around}, kinds


def _tensors(output: Any) -> Iterator[Any]:
    import torch

    if isinstance(output, torch.Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, (tuple, list)):
        for one in output:
            yield from _tensors(one)


@dataclass(slots=True)
class _Stray:
    """Squares summed up over the calls, by each way in which the file's tensor may lie."""

    kind: str
    errors: dict[str, float] = field(default_factory=dict)
    scale: float = 0.0
    missing: str = ""

    def add(self, wanted: np.ndarray, given: np.ndarray | None) -> None:
        """Take one call's output of the source and of the file."""
        if given is None:
            self.missing = "folded into another layer: the file has no tensor of its own for it"
            return
        exact = wanted.astype(np.float64)
        ways = {how: float(((one - exact) ** 2).sum()) for how, one in _ways(given.astype(np.float64), wanted.shape)}
        if not ways:
            self.missing = f"the file's tensor has the shape {list(given.shape)}, the net's {list(wanted.shape)}"
            return
        self.scale += float((exact**2).sum())
        for how, error in ways.items():
            self.errors[how] = self.errors.get(how, 0.0) + error

    def result(self, layer: str) -> LayerError:
        """The layer's error over all calls, in the way that fits best."""
        if self.missing or not self.errors:
            return LayerError(layer, self.kind, None, self.missing)
        error = min(self.errors.values())
        relative = 0.0 if error == 0 else math.sqrt(error / self.scale) if self.scale else math.inf
        return LayerError(layer, self.kind, relative)


def _ways(given: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """The file's tensor in the net's shape: as it is, channels moved from last, or axes of one left out."""
    if given.shape == shape:
        yield "same", given
    moved = np.moveaxis(given, -1, 1) if given.ndim > 2 else given
    if given.ndim > 2 and moved.shape == shape:
        yield "channels last", moved
    ones_apart = [size for size in given.shape if size != 1] == [size for size in shape if size != 1]
    if given.shape != shape and moved.shape != shape and ones_apart:
        yield "squeezed", given.reshape(shape)
