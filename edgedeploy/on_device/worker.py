"""The child process that loads one file and runs it, so that whatever it does to itself stays its own affair."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from .accelerators import elsewhere, kept, placed
from .comparing import compare
from .conditions import parse_meminfo
from .documents import read_json, write_json
from .failures import RuntimeUnavailable, UnsupportedModel
from .fields import read_text
from .objects import verify
from .runtimes import RUNTIMES, import_runtime, open_model
from .schema import MAX_CONTRACT_BYTES
from .steady import steady, warm_up
from .tensors import static_batch

if TYPE_CHECKING:
    from .runtimes import Array, Model

_PR_SET_PDEATHSIG = 1
_MEMORY_RUNS = 10


def main(arguments: list[str]) -> int:
    """Run with a specification, where to put the answer, and the parent's process id; a crash leaves no answer."""
    specification_path, answer_path, parent = arguments
    _die_with(int(parent))
    _spare_the_board()
    specification = read_json(specification_path)
    try:
        answer = _TASKS[specification["task"]](specification)
    except (RuntimeUnavailable, UnsupportedModel) as error:
        answer = {"outcome": "unsupported", "detail": str(error)}
    except MemoryError as error:
        answer = {"outcome": "out_of_memory", "detail": str(error) or "the process could get no more memory"}
    write_json(answer_path, answer)
    return 0


def _check(specification: dict[str, Any]) -> dict[str, Any]:
    """Load the file, hold its outputs on the probe against the host's and find out what really ran it.

    What the runtime makes of the file for an accelerator and caches is made here, before anything is timed.
    """
    caches = specification["accelerator"]["caches"]
    there = kept(caches)
    before = time.perf_counter_ns()
    model, contract = _open(specification)
    inputs, expected = _probe(specification, contract)
    step = static_batch(contract) or 1
    batches = [[array[start : start + step] for array in inputs] for start in range(0, len(inputs[0]), step)]
    outputs = [model.run(batches[0])]
    build_ns = time.perf_counter_ns() - before
    outputs += [model.run(batch) for batch in batches[1:]]
    error, trouble = compare(outputs, expected, specification["tolerance"])
    asked = specification["accelerator"]["name"]
    nodes = model.placement(batches[0])
    used, share = placed(asked, nodes)
    answer = {
        "outcome": "mismatch" if trouble else "ok",
        "detail": trouble,
        "runtime": model.runtime,
        "runtime_version": model.version,
        "accelerator_used": used,
        "accelerator_share": share,
        "placement": nodes or {},
        "build_ns": build_ns if kept(caches) != there else None,
        "max_output_error": error,
    }
    if share == 0:
        # Its latency would be another accelerator's under this one's name.
        answer.update(outcome="unsupported", detail=f"nothing ran on {asked}: {elsewhere(asked, nodes)}")
    return answer


def _latency(specification: dict[str, Any]) -> dict[str, Any]:
    """Time the four phases apart: load, first inference, warm-up, steady."""
    contract = _contract(specification)
    _version(specification)  # imports the runtime: a program does so once and loads many files
    example = _example(specification, contract)
    start = time.perf_counter_ns()
    model, _ = _open(specification)
    loaded = time.perf_counter_ns()
    prepared = model.prepare(example)
    before_first = time.perf_counter_ns()
    model.invoke(prepared)
    first = time.perf_counter_ns()
    limits = specification["warm_up"]
    runs, settled = warm_up(model.invoke, prepared, limits["min_runs"], limits["min_seconds"], limits["max_seconds"])
    steady_start = time.monotonic_ns()
    samples = steady(
        model.invoke,
        prepared,
        specification["min_runs"],
        specification["min_seconds"],
        specification["max_runs"],
    )
    steady_end = time.monotonic_ns()
    return {
        "outcome": "ok",
        "detail": "",
        "init_ns": loaded - start,
        "first_inference_ns": first - before_first,
        "warm_up_runs": runs,
        "warm_up_converged": settled,
        "samples_ns": samples,
        "steady_ns": [steady_start, steady_end],
    }


def _trial(specification: dict[str, Any]) -> dict[str, Any]:
    """Check the file and time it, in one process: enough to know whether it may go into service."""
    answer = _check(specification)
    if answer["outcome"] == "ok":
        answer["samples_ns"] = _latency(dict(specification, runtime=answer["runtime"]))["samples_ns"]
    return answer


def _memory(specification: dict[str, Any]) -> dict[str, Any]:
    """Load the file, run it a few times and say how much memory that took."""
    model, contract = _open(specification)
    prepared = model.prepare(_example(specification, contract))
    for _ in range(_MEMORY_RUNS):
        model.finish(model.invoke(prepared))
    return _resident()


def _baseline(specification: dict[str, Any]) -> dict[str, Any]:
    """Say how much memory the runtime and numpy take before any file is loaded."""
    _version(specification)
    import numpy as np

    np.zeros(1)
    return _resident()


def _unpack(specification: dict[str, Any]) -> dict[str, Any]:
    """Rebuild a packed file, so that runtimes load a plain one and none of this is in their memory."""
    from .unpacking import Refused, unpack  # only here: what is measured is not to carry it

    try:
        with open(specification["packed"], "rb") as source:
            content = unpack(source.read(), specification["file_bytes"])
        with open(specification["file"], "xb") as file:
            file.write(content)
        verify(specification["file"], specification["sha256"], specification["file_bytes"])
    except Refused as error:
        return {"outcome": "unsupported", "detail": f"the packed file cannot be rebuilt: {error}"}
    except ImportError as error:
        return {"outcome": "unsupported", "detail": f"the packed file cannot be rebuilt without numpy: {error}"}
    return {"outcome": "ok", "detail": ""}


def _version(specification: dict[str, Any]) -> dict[str, Any]:
    """Say which version of a runtime, of numpy or of a library that checks signatures imports here."""
    asked, modules = specification["runtime"], {"numpy": "numpy"}
    modules.update({name: module for known in RUNTIMES.values() for name, module, _ in known})
    if asked not in modules:
        from .signatures import LIBRARIES  # only here: what is measured is not to carry it

        modules.update(LIBRARIES)
    if asked not in modules:
        raise RuntimeUnavailable(asked)
    return {"outcome": "ok", "detail": "", "version": import_runtime(asked, modules[asked])[1]}


def _verify(specification: dict[str, Any]) -> dict[str, Any]:
    """Check a signature by a library."""
    from .signatures import check_by_library

    key, signature, data = (bytes.fromhex(specification[name]) for name in ("key", "signature", "data"))
    good = check_by_library(specification["library"], key, signature, data)
    return {"outcome": "ok" if good else "mismatch", "detail": ""}


_TASKS = {
    "unpack": _unpack,
    "check": _check,
    "latency": _latency,
    "trial": _trial,
    "memory": _memory,
    "baseline": _baseline,
    "version": _version,
    "verify": _verify,
}


def _open(specification: dict[str, Any]) -> tuple[Model, dict[str, Any]]:
    contract = _contract(specification)
    model = open_model(specification["artifact"], contract, specification["threads"], specification["accelerator"])
    return model, contract


def _contract(specification: dict[str, Any]) -> dict[str, Any]:
    contract: dict[str, Any] = read_json(specification["contract"], MAX_CONTRACT_BYTES)
    return contract


def _example(specification: dict[str, Any], contract: dict[str, Any]) -> list[Array]:
    inputs, _ = _probe(specification, contract)
    return [array[: static_batch(contract) or 1] for array in inputs]


def _probe(specification: dict[str, Any], contract: dict[str, Any]) -> tuple[list[Array], list[Array]]:
    import numpy as np

    with np.load(specification["probe"], allow_pickle=False) as probe:
        inputs = [probe[f"input_{place}"] for place in range(len(contract["inputs"]))]
        outputs = [probe[f"output_{place}"] for place in range(len(contract["outputs"]))]
    return inputs, outputs


def _resident() -> dict[str, Any]:
    # Not ru_maxrss: it inherits the launcher's peak over exec.
    peak = parse_meminfo(read_text("/", "proc/self/status") or "", "VmHWM")
    share = parse_meminfo(read_text("/", "proc/self/smaps_rollup") or "", "Pss")
    if peak is None:
        return {"outcome": "unsupported", "detail": "the kernel does not tell VmHWM in /proc/self/status"}
    return {"outcome": "ok", "detail": "", "peak_rss_bytes": peak, "pss_bytes": share}


def _die_with(parent: int) -> None:
    """Make this process end when its parent does, however that ends."""
    try:
        import ctypes  # left out of some small Pythons

        prctl = ctypes.CDLL(None, use_errno=True).prctl
        armed = prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0
    except (ImportError, OSError, AttributeError):
        armed = False
    if not armed:
        threading.Thread(target=_exit_at_end_of_input, daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)  # it was gone before the signal was armed


def _exit_at_end_of_input() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def _spare_the_board() -> None:
    """Where memory runs out, let it be this process that is killed, and write no core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass  # then the kernel picks by size, which is this process as well
