"""A few examples travel with a file, with the host's answers, so that a board can tell whether it computes the same."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy.exported_file import run_exported
from edgedeploy.on_device.tensors import static_batch
from edgedeploy.task import Task

EXAMPLES = 4


def write_probe(model: Path, contract: Mapping[str, Any], task: Task, path: Path) -> None:
    """Write input_0.. and output_0.. in real values, one call at a time, to an .npz of the same bytes each time."""
    batch = static_batch(dict(contract)) or 1
    examples = math.ceil(EXAMPLES / batch) * batch  # a board makes whole calls only
    inputs = tuple(np.resize(a[:examples], (examples, *a.shape[1:])) for a in task.selection.inputs)
    outputs = run_exported(model, contract, inputs, repeat(batch))
    arrays = {f"{kind}_{i}": a for kind, group in (("input", inputs), ("output", outputs)) for i, a in enumerate(group)}
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
