"""The examples after a few epochs: enough to tell a good net from a damaged one, trained once for all tests."""

from __future__ import annotations

import atexit
import functools
import tempfile
from pathlib import Path

from edgedeploy.compress.training import FineTune, save_weights, train_from_scratch
from edgedeploy.examples import EXAMPLES
from edgedeploy.task import Task, load_task

SETTINGS = {
    "blank": FineTune(3, 3e-3),
    "digits-cnn": FineTune(3, 5e-3),
    "digits-gru": FineTune(10, 1e-2, batch_size=32),
    "digits-transformer": FineTune(6, 3e-3, batch_size=32),
}


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="edgedeploy-trained-")
    atexit.register(folder.cleanup)
    return folder


@functools.cache
def trained(name: str) -> Task:
    """The example of this name with weights that it learnt just now."""
    file = EXAMPLES[name].folder / "task.py"
    weights = Path(_folder().name) / f"{name}.safetensors"
    save_weights(train_from_scratch(load_task(file, None), SETTINGS[name]), weights)
    return load_task(file, weights)
