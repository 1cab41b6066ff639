"""Adapter for LiteRT and for its older package, tflite-runtime, which share one interface."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .accelerators import CPU, filled, found_library
from .failures import UnsupportedModel, refusal
from .tensors import from_file, to_file

if TYPE_CHECKING:
    import numpy as np

_PLUGIN = "tflite_plugin_create_delegate"  # what load_delegate looks up in a library
_DELEGATED = "DELEGATE"
# The delegate that the interpreter applies by itself when memory is allocated: more kernels of the CPU.
_DEFAULT = "xnnpack"


class LitertSession:
    """A loaded TFLite file; a Session as runtimes.py describes it."""

    errors: tuple[type[Exception], ...] = (RuntimeError, ValueError)

    def __init__(self, interpreter: Any, contract: dict[str, Any], nodes: dict[str, int] | None) -> None:
        self._interpreter = interpreter
        self._call = interpreter.invoke
        self._nodes = nodes
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

    def placement(self, _prepared: None) -> dict[str, int] | None:
        """Return the number of nodes by what took them, None where the interpreter does not tell."""
        return self._nodes


def load(module: Any, path: str, contract: dict[str, Any], threads: int, accelerator: dict[str, Any]) -> LitertSession:
    """Load a TFLite file. Raises UnsupportedModel, OSError."""
    delegates = _delegates(module, threads, accelerator)
    try:
        interpreter = module.Interpreter(
            model_path=path, num_threads=threads, **({"experimental_delegates": delegates} if delegates else {})
        )
        before = _operators(interpreter)
        interpreter.allocate_tensors()
    except LitertSession.errors as error:
        raise refusal(error) from error
    return LitertSession(interpreter, contract, _placement(accelerator["name"], before, _operators(interpreter)))


def _delegates(module: Any, threads: int, accelerator: dict[str, Any]) -> list[Any]:
    """Return the delegate that the accelerator names; none for the CPU and for what the interpreter applies itself."""
    name = accelerator["name"]
    switch = accelerator["switch"]
    if name in (CPU, _DEFAULT) and not switch:
        return []
    if switch is None or "delegate" not in switch:
        raise UnsupportedModel(f"{module.__name__} has no accelerator {name!r} here, only {CPU} and {_DEFAULT}")
    package = importlib.import_module(module.__name__.partition(".")[0])
    switch = filled(switch, threads, accelerator["caches"], str(getattr(package, "__version__", "")))
    library = found_library(package, switch["delegate"])
    try:
        import ctypes  # left out of some small Pythons

        # What is no plugin is told here in one line: load_delegate leaves half an object behind that fails once more.
        getattr(ctypes.CDLL(library), _PLUGIN)
        return [module.load_delegate(library, switch["options"])]
    except (ImportError, OSError, AttributeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UnsupportedModel(
            f"the delegate of {name!r} cannot be loaded here, only {CPU} and {_DEFAULT} are there: {reason}"
        ) from error


def _operators(interpreter: Any) -> list[dict[str, Any]] | None:
    details = getattr(interpreter, "_get_ops_details", None)  # private, hence perhaps gone in another release
    operators: list[dict[str, Any]] | None = details() if details else None
    return operators


def _placement(
    name: str, before: list[dict[str, Any]] | None, after: list[dict[str, Any]] | None
) -> dict[str, int] | None:
    """Count the file's operators by what took them.

    A delegate's nodes stand behind the operators that they replace, which stay in the list: those of delegates that
    were loaded before memory is allocated, those of the default delegate after it. What a node replaced is all that
    leads from its inputs to its outputs.
    """
    if before is None or after is None:
        return None
    operators = {place: operator for place, operator in enumerate(after) if operator["op_name"] != _DELEGATED}
    makers = {int(tensor): place for place, operator in operators.items() for tensor in operator["outputs"]}
    takers: dict[int, str] = {}
    for place, operator in enumerate(after):
        if place in operators:
            continue
        given = {int(tensor) for tensor in operator["inputs"]}
        wanted = [int(tensor) for tensor in operator["outputs"]]
        while wanted:
            maker = makers.get(wanted.pop())
            if maker is not None and maker not in takers:
                takers[maker] = name if place < len(before) else _DEFAULT
                wanted += [int(tensor) for tensor in operators[maker]["inputs"] if int(tensor) not in given]
    counts: dict[str, int] = {}
    for place in operators:
        taker = takers.get(place, CPU)
        counts[taker] = counts.get(taker, 0) + 1
    return counts


def _match(kind: str, there: dict[str, int], tensors: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    wanted = [tensor["name"] for tensor in tensors]
    if sorted(wanted) != sorted(there):
        raise UnsupportedModel(f"the file's {kind}s are {sorted(there)}, its contract says {wanted}")
    return [(there[tensor["name"]], tensor) for tensor in tensors]
