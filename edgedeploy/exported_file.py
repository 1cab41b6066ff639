"""The host runs an exported file through the board's own code, so that both see the same numbers."""

from __future__ import annotations

import gc
import json
import math
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy.apart import command, environment
from edgedeploy.errors import ExportError
from edgedeploy.on_device.runtimes import RuntimeUnavailable, UnsupportedModel, open_model
from edgedeploy.on_device.steady import steady
from edgedeploy.on_device.tensors import static_batch
from edgedeploy.quiet import quiet
from edgedeploy.task import Arrays

_PACKAGE = {"onnx": "onnxruntime", "tflite": "ai-edge-litert"}
_FIRST_RUN_TIMEOUT_S = 300.0
_ROUNDS, _RUNS_PER_TURN, _TURN_S = 5, 50, 0.005


def run_exported(path: Path, contract: Mapping[str, Any], inputs: Arrays, batch_sizes: Iterator[int]) -> Arrays:
    """Return the file's outputs on `inputs` (first axis = example) in real values, one array per output.

    `batch_sizes` says how many examples each call takes, as long as there are any; a file of static batch takes
    its own number all the same, the last call filled up with examples that are there already. Raises ExportError
    where there is no runtime or it refuses the file.
    """
    examples = len(inputs[0])
    batch = static_batch(dict(contract)) or 1
    chunks: list[list[np.ndarray]] = []
    with quiet():
        try:
            model = open_model(str(path), dict(contract))
            start = 0
            while start < examples:
                stop = min(start + next(batch_sizes), examples)
                whole = math.ceil((stop - start) / batch) * batch
                outputs = model.run([_filled(array[start:stop], whole) for array in inputs])
                chunks.append([output[: stop - start] for output in outputs])
                start = stop
        except RuntimeUnavailable as error:
            wanted = _PACKAGE.get(contract["format"], contract["format"])
            raise ExportError(
                f"no runtime for {contract['format']} files on this machine: pip install {wanted}"
            ) from error
        except UnsupportedModel as error:
            raise ExportError(f"{path.name}: its own runtime refuses the exported file: {error}") from error
    return tuple(np.concatenate(parts) for parts in zip(*chunks, strict=True))


def _filled(array: np.ndarray, length: int) -> np.ndarray:
    return array if len(array) == length else np.resize(array, (length, *array.shape[1:]))


def interleaved_us(files: Sequence[tuple[Path, Mapping[str, Any]]], example: Arrays) -> tuple[float, ...]:
    """The least latency of one inference of each exported file, in microseconds, one thread, taken by turns.

    Good enough to put files in an order: whatever else the machine does only ever adds. Each file runs up to 250
    times, a slow one at least ten. Raises ExportError where a runtime refuses its file.
    """
    least = [math.inf] * len(files)
    gc.freeze()  # every turn collects first, which takes half a second where torch is loaded
    with quiet():
        try:
            models = [open_model(str(path), dict(contract)) for path, contract in files]
            batches = [static_batch(dict(contract)) or 1 for _, contract in files]
            prepared = [
                model.prepare([_filled(array[:1], batch) for array in example])
                for model, batch in zip(models, batches, strict=True)
            ]
            for _ in range(_ROUNDS):
                for i, model in enumerate(models):
                    least[i] = min(least[i], *steady(model.invoke, prepared[i], 2, _TURN_S, _RUNS_PER_TURN))
        except (RuntimeUnavailable, UnsupportedModel) as error:
            raise ExportError(f"the exported file cannot be timed on this machine: {error}") from error
        finally:
            gc.unfreeze()
    return tuple(ns / 1000 for ns in least)


def run_once_apart(path: Path, contract: Mapping[str, Any]) -> None:
    """Load and run the file once in a process of its own. Raises ExportError where that takes the process down.

    A runtime is native code, and a graph that no one has run yet may crash it: better a child than the build.
    """
    try:
        exit_code = subprocess.run(
            command("edgedeploy.exported_file", str(path)),
            input=json.dumps(contract).encode(),
            capture_output=True,
            check=False,
            timeout=_FIRST_RUN_TIMEOUT_S,
            env=environment(),
        ).returncode
    except subprocess.TimeoutExpired as error:
        raise ExportError(
            f"{path.name}: its own runtime has not answered within {_FIRST_RUN_TIMEOUT_S:.0f} s"
        ) from error
    if exit_code < 0:  # any other failure repeats itself here, and is told by whoever runs the file next
        raise ExportError(f"{path.name}: the exported file crashes its own runtime ({signal.Signals(-exit_code).name})")


def _main(path: str) -> None:
    contract = json.loads(sys.stdin.read())
    batch = static_batch(contract) or 1
    zeros = tuple(np.zeros([batch, *tensor["shape"][1:]], dtype=tensor["real_type"]) for tensor in contract["inputs"])
    run_exported(Path(path), contract, zeros, repeat(batch))


if __name__ == "__main__":
    _main(sys.argv[1])
