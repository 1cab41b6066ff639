"""Adapter for LiteRT and for its older package, tflite-runtime, which share one interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .failures import UnsupportedModel, refusal
from .tensors import from_file, to_file

if TYPE_CHECKING:
    import numpy as np


class LitertSession:
    """A loaded TFLite file; a Session as runtimes.py describes it."""

    # No delegate is loaded but the interpreter's own XNNPACK kernels, which are the CPU.
    accelerator_used = "cpu"
    errors: tuple[type[Exception], ...] = (RuntimeError, ValueError)

    def __init__(self, interpreter: Any, contract: dict[str, Any]) -> None:
        self._interpreter = interpreter
        self._call = interpreter.invoke
        inputs = {item["name"]: item["index"] for item in interpreter.get_input_details()}
        outputs = {item["name"]: item["index"] for item in interpreter.get_output_details()}
        self._inputs = _match("input", inputs, contract["inputs"])
        self._outputs = _match("output", outputs, contract["outputs"])

    def prepare(self, inputs: list[np.ndarray[Any, Any]]) -> None:
        """Set the inputs; they stay set until the next call."""
        for array, (index, tensor) in zip(inputs, self._inputs):
            self._interpreter.set_tensor(index, to_file(array, tensor))

    def invoke(self, _prepared: None) -> None:
        """Run once."""
        self._call()

    def finish(self, _raw: None) -> list[np.ndarray[Any, Any]]:
        """Return real-valued outputs in the contract's order, copied out of the interpreter."""
        return [from_file(self._interpreter.get_tensor(index), tensor) for index, tensor in self._outputs]


def load(module: Any, path: str, contract: dict[str, Any], threads: int, accelerator: str) -> LitertSession:
    """Load a TFLite file. Raises UnsupportedModel."""
    if accelerator != "cpu":
        raise UnsupportedModel(f"{module.__name__} has no accelerator {accelerator!r} here, only cpu")
    try:
        interpreter = module.Interpreter(model_path=path, num_threads=threads)
        interpreter.allocate_tensors()
    except LitertSession.errors as error:
        raise refusal(error) from error
    return LitertSession(interpreter, contract)


def _match(kind: str, there: dict[str, int], tensors: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    wanted = [tensor["name"] for tensor in tensors]
    if sorted(wanted) != sorted(there):
        raise UnsupportedModel(f"the file's {kind}s are {sorted(there)}, its contract says {wanted}")
    return [(there[tensor["name"]], tensor) for tensor in tensors]
