"""From a torch net to one file and what travels with it; a new format is one module and one line of EXPORTERS."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgedeploy.errors import ExportError
from edgedeploy.export import onnx, tflite
from edgedeploy.export.contract import build_contract
from edgedeploy.export.parity import EXAMPLES, compare
from edgedeploy.export.probe import write_probe
from edgedeploy.exported_file import run_once_apart
from edgedeploy.records import Format, Parity, Precision, Target
from edgedeploy.task import Arrays, Task, predict

if TYPE_CHECKING:
    from torch import nn

__all__ = ["EXPORTERS", "VERSION", "Exported", "Exporter", "check_parity", "export", "tools"]

# Raise it whenever the same net and the same tools would give another file, contract or probe.
VERSION = 1


class Exporter(Protocol):
    """A module that writes one format."""

    def tools(self, precision: Precision) -> tuple[str, ...]:
        """Distributions whose version can change the file or what is measured of it on the host."""

    def write(self, model: nn.Module, precision: Precision, task: Task, path: Path) -> tuple[str, ...]:
        """Write the net to `path`; return notes, such as what stayed in float. Raises ExportError."""

    def describe(self, path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The file's inputs and outputs in the order of the net's: name, shape, type, scale, zero_point."""


EXPORTERS: dict[Format, Exporter] = {
    Format.ONNX: onnx,
    Format.TFLITE: tflite,
}


@dataclass(frozen=True, slots=True)
class Exported:
    """A file and what travels with it: its contract as a JSON document, and its probe, an .npz."""

    path: Path
    contract: dict[str, Any]
    probe_path: Path
    notes: tuple[str, ...]


def tools(target: Target) -> tuple[str, ...]:
    """Names of the distributions whose version counts for a file of this target."""
    return EXPORTERS[target.format].tools(target.precision)


def export(model: nn.Module, target: Target, task: Task, folder: Path) -> Exported:
    """Write `model` as `target` into `folder`; the net itself is left as it is.

    Raises ExportError, in one sentence: an operator the format lacks, control flow that depends on values, a
    frozen batch axis, a net that is not float32 or gives NaN, a file that its own runtime refuses.
    """
    net = copy.deepcopy(model).cpu().eval()
    _check_types(net, task)
    reference = _reference(net, task)
    exporter = EXPORTERS[target.format]
    path = folder / f"model.{target.format}"
    notes = exporter.write(net, target.precision, task, path)
    inputs, outputs = exporter.describe(path)
    contract = build_contract(target, inputs, outputs, task, reference)
    run_once_apart(path, contract)
    probe_path = folder / "probe.npz"
    write_probe(path, contract, task, probe_path)
    return Exported(path, contract, probe_path, notes)


def check_parity(model: nn.Module, exported: Exported, target: Target, task: Task) -> Parity:
    """Compare the file with its source on the first examples of the selection split. Raises ParityError."""
    net = copy.deepcopy(model).cpu().eval()
    return compare(exported.path, exported.contract, target, task, _reference(net, task))


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
