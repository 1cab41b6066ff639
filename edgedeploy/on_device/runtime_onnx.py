"""Adapter for ONNX Runtime."""

from __future__ import annotations

import functools
import os
import tempfile
from typing import TYPE_CHECKING, Any

from .accelerators import CPU, filled, found_library
from .documents import read_json
from .failures import UnsupportedModel, refusal
from .tensors import from_file, to_file

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    Errors = tuple[type[Exception], ...]
    Placement = Callable[[Any], "dict[str, int] | None"]

_SUFFIX = "ExecutionProvider"
_CPU = "CPUExecutionProvider"
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
_PROFILE = "profile"  # no entry of the runtime's: the prefix of the file that it writes its profile to
_MAX_PROFILE_BYTES = 64 << 20


# From 1.31 on it writes down what it does, in a database below the home folder, and sends that to its maker, by a
# thread of its own that would be measured too. It reads this once, as it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


class OnnxSession:
    """A loaded ONNX file; a Session as runtimes.py describes it."""

    def __init__(self, session: Any, contract: dict[str, Any], placement: Placement, errors: Errors) -> None:
        self.placement = placement
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


def load(module: Any, path: str, contract: dict[str, Any], threads: int, accelerator: dict[str, Any]) -> OnnxSession:
    """Load an ONNX file. Raises UnsupportedModel, OSError."""
    switch = _switch(module, threads, accelerator)
    errors: Errors = (RuntimeError, ValueError, *own_errors(module))
    open_session = functools.partial(_session, module, path, threads, switch, errors)
    tells = hasattr(module.InferenceSession, "get_provider_graph_assignment_info")
    session = open_session({_ASSIGNMENT: "1"} if tells else {})
    _check_names("input", [item.name for item in session.get_inputs()], contract["inputs"])
    _check_names("output", [item.name for item in session.get_outputs()], contract["outputs"])
    provider = switch["provider"]
    started = session.get_providers()
    # A provider whose libraries or device are missing is left out in silence, and all goes to the CPU.
    if provider not in started:
        raise UnsupportedModel(
            f"onnxruntime {module.__version__} could not start {provider} for {accelerator['name']!r} here, its "
            f"libraries or its device are missing; there: {_names(started)}"
        )
    named = functools.partial(_named, accelerator["name"], provider)
    placement: Placement = functools.partial(_recorded, session, named)
    if not tells:
        placement = _untold if provider == _CPU else functools.partial(_profiled, open_session, named)
    return OnnxSession(session, contract, placement, errors)


def own_errors(module: Any) -> tuple[type[Exception], ...]:
    """Return the exceptions of this onnxruntime, which have no base of their own."""
    state = module.capi.onnxruntime_pybind11_state
    return tuple(getattr(state, name) for name in _ERRORS if hasattr(state, name))


def _switch(module: Any, threads: int, accelerator: dict[str, Any]) -> dict[str, Any]:
    """Return the provider to use first, with its options filled in. Raises UnsupportedModel where it is not there."""
    name = accelerator["name"]
    switch = accelerator["switch"]
    if name == CPU and not switch:
        return {"provider": _CPU, "options": {}, "session": {}}
    there = module.get_available_providers()
    known = switch is not None and "provider" in switch and (switch["provider"] in there or "library" in switch)
    if switch is None or not known:
        raise UnsupportedModel(
            f"onnxruntime {module.__version__} has no accelerator {name!r} here, only {_names(there)}"
        )
    return filled(switch, threads, accelerator["caches"], module.__version__)


def _session(
    module: Any, path: str, threads: int, switch: dict[str, Any], errors: Errors, entries: dict[str, str]
) -> Any:
    """Return a session that tries the switch's provider, then those after it, then the CPU. Raises UnsupportedModel."""
    options = module.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in dict(switch["session"], **entries).items():
        if key == _PROFILE:
            options.enable_profiling, options.profile_file_prefix = True, value
        else:
            options.add_session_config_entry(key, value)
    provider = switch["provider"]
    try:
        if _is_plugin(module, switch):
            _add_plugin(module, options, switch)
            return module.InferenceSession(path, options, enable_fallback=0)
        names = dict.fromkeys([provider, *switch.get("then", []), _CPU])
        providers = [(name, switch["options"] if name == provider else {}) for name in names]
        # By itself the session would be made again on the CPU where a provider fails, now or while it runs.
        return module.InferenceSession(path, options, providers=providers, enable_fallback=0)
    except errors as error:
        raise refusal(error) from error


def _is_plugin(module: Any, switch: dict[str, Any]) -> bool:
    """Whether the provider is to come from its library: some wheels have one built in that others have as a plugin.

    Once its library is loaded, a plugin is listed among the providers as well.
    """
    if "library" not in switch:
        return False
    built_in = switch["provider"] in module.get_available_providers()
    return not built_in or os.path.exists(found_library(module, switch["library"]))


def _add_plugin(module: Any, options: Any, switch: dict[str, Any]) -> None:
    provider = switch["provider"]
    if not hasattr(module, "register_execution_provider_library"):
        raise UnsupportedModel(f"onnxruntime {module.__version__} takes no execution provider from a library")
    if not any(device.ep_name == provider for device in module.get_ep_devices()):
        module.register_execution_provider_library(provider, found_library(module, switch["library"]))
    there = [device for device in module.get_ep_devices() if device.ep_name == provider]
    kinds = [device.device.type.name.lower() for device in there]
    devices = [device for device, kind in zip(there, kinds) if kind == switch.get("device", kind)]
    if not devices:
        wanted = switch.get("device", "device")
        raise UnsupportedModel(f"{provider} finds no {wanted} here, only {', '.join(sorted(kinds)) or 'nothing'}")
    options.add_provider_for_devices(devices, switch["options"])


def _recorded(session: Any, named: Callable[[str], str], _prepared: Any) -> dict[str, int]:
    """Count the nodes by the provider that took them, as the session recorded it when it cut up the graph."""
    counts: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        name = named(part.ep_name)
        counts[name] = counts.get(name, 0) + len(part.get_nodes())
    return counts


def _untold(_prepared: Any) -> None:
    """Nothing can have fallen back from the CPU, so that no run is spent on finding out."""


def _profiled(
    open_session: Callable[[dict[str, str]], Any], named: Callable[[str], str], prepared: Any
) -> dict[str, int]:
    """Count them from the runtime's own profile of one run, in which a part that a provider fused is one node."""
    with tempfile.TemporaryDirectory(prefix="edgedeploy-") as folder:
        session = open_session({_PROFILE: os.path.join(folder, "nodes")})
        session.run(None, prepared)
        events = read_json(session.end_profiling(), _MAX_PROFILE_BYTES)
    ran = {
        event["name"]: event["args"]["provider"]
        for event in events
        if event.get("cat") == "Node" and event.get("args", {}).get("provider")
    }
    counts: dict[str, int] = {}
    for provider in ran.values():
        counts[named(provider)] = counts.get(named(provider), 0) + 1
    return counts


def _named(asked: str, its_provider: str, provider: str) -> str:
    return asked if provider == its_provider else _short(provider)


def _short(provider: str) -> str:
    return provider[: -len(_SUFFIX)].lower() if provider.endswith(_SUFFIX) else provider.lower()


def _names(providers: list[str]) -> str:
    return ", ".join(sorted(_short(name) for name in providers if name != _REMOTE))


def _check_names(kind: str, there: list[str], tensors: list[dict[str, Any]]) -> None:
    wanted = [tensor["name"] for tensor in tensors]
    if sorted(wanted) != sorted(there):
        raise UnsupportedModel(f"the file's {kind}s are {there}, its contract says {wanted}")
