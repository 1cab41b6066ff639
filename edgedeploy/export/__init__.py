"""From a torch net to one file and what travels with it; a new format is one module and one line of EXPORTERS."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgedeploy.errors import ExportError
from edgedeploy.export import onnx, tflite
from edgedeploy.export.contract import build_contract
from edgedeploy.export.parity import EXAMPLES, compare
from edgedeploy.export.probe import write_probe
from edgedeploy.export.shared import Written
from edgedeploy.exported_file import run_once_apart
from edgedeploy.quiet import quiet
from edgedeploy.records import Format, OperatorUse, Parity, Precision, Target
from edgedeploy.task import Arrays, Task, predict

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "EXPORTERS",
    "VERSION",
    "Exported",
    "Exporter",
    "FloatFile",
    "Written",
    "check_parity",
    "constant_bytes",
    "convert",
    "export",
    "float_content",
    "layers",
    "quantise",
    "tools",
]

# Raise it whenever the same net and the same tools would give another file, contract or probe.
VERSION = 4


class Exporter(Protocol):
    """A module that writes one format."""

    def tools(self, precision: Precision) -> tuple[str, ...]:
        """Distributions whose version can change the file or what is measured of it on the host."""

    def convert(self, model: nn.Module, task: Task, path: Path, batch: int | None = None) -> None:
        """Write the net in float32 to `path`, names included, so that layers can be told apart. Raises ExportError.

        `batch` is how many examples the file takes at once, None for what the format does by itself.
        """

    def layers(self, source: Path) -> tuple[str, ...]:
        """The layers of a converted file that hold weights, in its order, by their path in the net."""

    def quantise(self, source: Path, target: Target, task: Task, path: Path, keep_float: Collection[str]) -> Written:
        """Write a converted file to `path` as `target` says, but for the layers `keep_float`. Raises ExportError."""

    def outputs(self, source: Path) -> dict[str, str]:
        """For each module of the net the tensor of a converted file that holds its output, by their names."""

    def named(self, source: Path, target: Target, task: Task, keep_float: Collection[str]) -> bytes:
        """What `quantise` writes, with its names. Raises ExportError."""

    def strip(self, content: bytes) -> bytes:
        """A named file as `quantise` writes it."""

    def constant_bytes(self, content: bytes) -> int:
        """What the constants of a file take in it, without their names and shapes."""

    def tracer(self, content: bytes, names: Collection[str]) -> Callable[[Arrays], dict[str, np.ndarray]]:
        """What runs a named file and gives its inner tensors, in real values, those that are there."""

    def describe(self, path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The file's inputs and outputs in the order of the net's: name, shape, type, scale, zero_point."""


EXPORTERS: dict[Format, Exporter] = {
    Format.ONNX: onnx,
    Format.TFLITE: tflite,
}


@dataclass(frozen=True, slots=True, eq=False)
class FloatFile:
    """A net in one format and float32, from which every precision is made.

    `path` still has the names that the exported files lack. `reference` is what the source net gives for the first
    examples of the selection split, one array per output. `batch` is that of the targets it is good for.
    """

    path: Path
    format: Format
    reference: Arrays
    batch: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Exported:
    """A file and what travels with it: its contract as a JSON document, and its probe, an .npz.

    `reference` is that of the FloatFile it was made from.
    """

    path: Path
    contract: dict[str, Any]
    probe_path: Path
    notes: tuple[str, ...]
    operators: tuple[OperatorUse, ...]
    reference: Arrays


def tools(target: Target) -> tuple[str, ...]:
    """Names of the distributions whose version counts for a file of this target."""
    return EXPORTERS[target.format].tools(target.precision)


def convert(model: nn.Module, file_format: Format, task: Task, folder: Path, batch: int | None = None) -> FloatFile:
    """Write `model` in float32 into `folder`, once for all precisions; the net itself is left as it is.

    Raises ExportError, in one sentence: an operator the format lacks, control flow that depends on values, a
    frozen batch axis, a net that is not float32 or gives NaN.
    """
    with quiet():  # a program that torch saved warns when it is copied
        net = copy.deepcopy(model).cpu().eval()
    _check_batch(net, file_format, task, batch)
    net.register_forward_hook(_as_tuple)  # a converter takes a tuple with names for something of its own
    _check_types(net, task)
    reference = _reference(net, task)
    path = folder / f"float.{file_format}"
    EXPORTERS[file_format].convert(net, task, path, batch)
    return FloatFile(path, file_format, reference, batch)


def float_content(source: FloatFile, task: Task) -> bytes:
    """What `quantise` writes in float32, neither run nor probed. Raises ExportError where it was trained for int8."""
    exporter = EXPORTERS[source.format]
    target = Target(source.format, Precision.FP32, batch=source.batch)
    return exporter.strip(exporter.named(source.path, target, task, ()))


def constant_bytes(path: Path, file_format: Format) -> int:
    """What the constants of an exported file take: weights and biases, in ONNX the scales beside them."""
    return EXPORTERS[file_format].constant_bytes(path.read_bytes())


def layers(source: FloatFile) -> tuple[str, ...]:
    """The layers that hold weights, which `quantise` can keep in float."""
    return EXPORTERS[source.format].layers(source.path)


def quantise(source: FloatFile, target: Target, task: Task, folder: Path, keep_float: Collection[str] = ()) -> Exported:
    """Write a converted net into `folder` as `target` says, all layers but those of `keep_float`.

    Raises ExportError where the precision cannot be had, or the file's own runtime refuses it.
    """
    exporter = EXPORTERS[target.format]
    path = folder / f"model.{target.format}"
    written = exporter.quantise(source.path, target, task, path, keep_float)
    inputs, outputs = exporter.describe(path)
    contract = build_contract(target, inputs, outputs, task, source.reference)
    run_once_apart(path, contract)
    probe_path = folder / "probe.npz"
    write_probe(path, contract, task, probe_path)
    return Exported(path, contract, probe_path, written.notes, written.operators, source.reference)


def export(model: nn.Module, target: Target, task: Task, folder: Path) -> Exported:
    """Both steps for one file: see `convert` and `quantise`."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        return quantise(convert(model, target.format, task, Path(name), target.batch), target, task, folder)


def check_parity(exported: Exported, target: Target, task: Task) -> Parity:
    """Compare the file with what its source gave for the same examples. Raises ParityError."""
    return compare(exported.path, exported.contract, target, task, exported.reference)


def _check_batch(net: nn.Module, file_format: Format, task: Task, batch: int | None) -> None:
    """A net from a file may take one batch alone, or come in a format of its own. Raises ExportError."""
    source = task.source.name if task.source else ""
    if file_format is not Format.ONNX and getattr(net, "onnx_source", None) is not None:
        raise ExportError(f"{source} holds no PyTorch net, of which alone {file_format} files are made")
    frozen = getattr(net, "frozen_batch", None)
    asked = Target(file_format, Precision.FP32, batch=batch).static_batch
    if frozen is not None and frozen != asked:
        raise ExportError(
            f"{source} takes {frozen} examples at once and no other number; export it with a dynamic batch axis "
            f"(dynamic_shapes, from an example of 2 or more), or ask for `batch = {frozen}` in the recipe"
        )


def _as_tuple(_net: nn.Module, _inputs: Any, output: Any) -> Any:
    return tuple(output) if isinstance(output, (tuple, list)) else output


def _check_types(model: nn.Module, task: Task) -> None:
    """A precision is reached from float32: from any other, the name of the target would lie. Raises ExportError."""
    import torch

    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    tensors |= {f"input {i} of example()": torch.from_numpy(array[:0]) for i, array in enumerate(task.example)}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ExportError(f"{name} is {kind}; make the net and its inputs float32, the target sets the precision")


def _reference(model: nn.Module, task: Task) -> Arrays:
    """What the net gives for the first examples of the selection split. Raises ExportError."""
    inputs = tuple(array[:EXAMPLES] for array in task.selection.inputs)
    try:
        outputs = predict(model, inputs)
    except (RuntimeError, TypeError, ValueError, AssertionError, LookupError, AttributeError) as error:
        raise ExportError(
            f"the net raised {type(error).__name__} on a batch of {len(inputs[0])} from the selection split: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
    for index, output in enumerate(outputs):
        if not np.isfinite(output).all():
            raise ExportError(
                f"output {index} of the net holds NaN or infinity on the selection split; "
                "check its weights, its passes, and the range of its inputs"
            )
    return outputs
