"""Adapter for ONNX Runtime."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from .failures import UnsupportedModel, refusal
from .tensors import from_file, to_file

if TYPE_CHECKING:
    import numpy as np

    Errors = tuple[type[Exception], ...]

_SUFFIX = "ExecutionProvider"
_REMOTE = "AzureExecutionProvider"  # runs on somebody else's computer, hence no accelerator of this board
_ERRORS = [
    "EPFail",
    "EngineError",
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "ModelRequiresCompilation",
    "NoModel",
    "NoSuchFile",
    "NotFound",
    "NotImplemented",
    "RuntimeException",
]
_ASSIGNMENT = "session.record_ep_graph_assignment_info"


class OnnxSession:
    """A loaded ONNX file; a Session as runtimes.py describes it."""

    def __init__(self, session: Any, contract: dict[str, Any], accelerator_used: str, errors: Errors) -> None:
        self.accelerator_used = accelerator_used
        self.errors = errors
        self._inputs = contract["inputs"]
        self._outputs = contract["outputs"]
        # The call a user makes, `session.run(names, feed)`, without even a frame of Python around it.
        self.invoke = functools.partial(session.run, [tensor["name"] for tensor in self._outputs])

    def prepare(self, inputs: list[np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Return the feed: tensor name to array in the file's own type."""
        return {tensor["name"]: to_file(array, tensor) for array, tensor in zip(inputs, self._inputs)}

    def finish(self, raw: Any) -> list[np.ndarray[Any, Any]]:
        """Return real-valued outputs in the contract's order."""
        return [from_file(array, tensor) for array, tensor in zip(raw, self._outputs)]


def load(module: Any, path: str, contract: dict[str, Any], threads: int, accelerator: str) -> OnnxSession:
    """Load an ONNX file. Raises UnsupportedModel."""
    there = {name[: -len(_SUFFIX)].lower(): name for name in module.get_available_providers() if name != _REMOTE}
    if accelerator not in there:
        here = ", ".join(sorted(there))
        raise UnsupportedModel(f"onnxruntime {module.__version__} has no accelerator {accelerator!r} here, only {here}")
    state = module.capi.onnxruntime_pybind11_state
    errors = (RuntimeError, ValueError, *(getattr(state, name) for name in _ERRORS if hasattr(state, name)))
    options = module.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    records = hasattr(module.InferenceSession, "get_provider_graph_assignment_info")
    if records:
        options.add_session_config_entry(_ASSIGNMENT, "1")
    try:
        session = module.InferenceSession(path, options, providers=[there[accelerator]])
    except errors as error:
        raise refusal(error) from error
    _check_names("input", [item.name for item in session.get_inputs()], contract["inputs"])
    _check_names("output", [item.name for item in session.get_outputs()], contract["outputs"])
    used = session.get_providers()[0]
    if records:
        # Registered is not used: a provider that takes no node has left all of them to the CPU.
        assigned = [part.ep_name for part in session.get_provider_graph_assignment_info()]
        if assigned and used not in assigned:
            used = assigned[0]
    return OnnxSession(session, contract, used[: -len(_SUFFIX)].lower(), errors)


def _check_names(kind: str, there: list[str], tensors: list[dict[str, Any]]) -> None:
    wanted = [tensor["name"] for tensor in tensors]
    if sorted(wanted) != sorted(there):
        raise UnsupportedModel(f"the file's {kind}s are {there}, its contract says {wanted}")
