"""What a job and a report look like: one set of checks for the host that writes and the board that reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .checks import (
    MalformedDocument,
    absolute,
    anything,
    fail,
    flag,
    integer,
    listing,
    mapping,
    naturals,
    number,
    one_of,
    optional,
    record,
    sha256,
    text,
)
from .limits import MAX_OBJECT_BYTES
from .release_schema import RELEASE_OPERATIONS, RELEASE_RESULTS
from .switching import SWITCH

if TYPE_CHECKING:
    from .checks import Check

__all__ = ["MalformedDocument", "check_contract", "check_envelope", "check_job", "check_operation", "check_report"]

SCHEMA = 1
OUTCOMES = ("ok", "unsupported", "out_of_memory", "timeout", "crashed", "mismatch")
ERROR_KINDS = ("locked", "bad_job", "io", "no_runtime", "refused")
FORMATS = ("onnx", "tflite")
MAX_CONTRACT_BYTES = 1 << 20
MAX_MARKS = 64
# A steady phase ends here even when its seconds are not over, so that a report fits into a small board's memory.
MAX_RUNS = 1_000_000


def check_job(job: Any) -> None:
    """Check a whole job, every operation included. Raises MalformedDocument."""
    check_envelope(job)
    for place, operation in enumerate(job["operations"]):
        check_operation(operation, f"operations[{place}]")


def check_envelope(job: Any) -> None:
    """Check all of a job but its operations, which fail one by one. Raises MalformedDocument."""
    fields = {"schema": _schema, "root": absolute, "operations": listing(anything, 1)}
    record(fields, closed=True)(job, "job")


def check_operation(operation: Any, where: str) -> None:
    """Check one operation of a job. Raises MalformedDocument."""
    mapping(anything)(operation, where)
    kind = operation.get("op")
    one_of(*_OPERATIONS)(kind, f"{where}.op")
    record(dict(_OPERATIONS[kind], op=text), _OPTIONAL.get(kind), closed=True)(operation, where)


def check_report(report: Any) -> None:
    """Check a report, whose board may be broken or hostile. Raises MalformedDocument."""
    record(_REPORT)(report, "report")
    for place, result in enumerate(report["results"]):
        where = f"report.results[{place}]"
        mapping(anything)(result, where)
        kind = result.get("op")
        if "error" in result:
            # What was asked may itself have been malformed, hence its name too.
            record({"op": text, "error": record({"kind": one_of(*ERROR_KINDS), "message": text})})(result, where)
        else:
            one_of(*_RESULTS)(kind, f"{where}.op")
            record(_RESULTS[kind])(result, where)


def check_contract(contract: Any) -> None:
    """Check the contract beside a model as far as running the model needs it. Raises MalformedDocument."""
    fields = {"schema": _schema, "format": one_of(*FORMATS)}
    record(dict(fields, inputs=listing(_TENSOR, 1), outputs=listing(_TENSOR, 1)))(contract, "contract")


def _schema(value: Any, where: str) -> None:
    if value != SCHEMA or isinstance(value, bool):
        fail(where, f"{SCHEMA}, the only schema known here", value)


def _temporary(value: Any, where: str) -> None:
    text(value, where)
    parts = value.split("/")
    if len(parts) != 2 or parts[0] != "tmp" or parts[1] in ("", ".", "..") or "\0" in value:
        fail(where, "a path like 'tmp/NAME' inside the root", value)


def _line(value: Any, where: str) -> None:
    text(value, where)
    if not value.isprintable():
        fail(where, "one line of text", value)


_size = integer(0, MAX_OBJECT_BYTES)
_count = integer(0, 1 << 62)
_ns = integer(0, 1 << 62)
_seconds = number(0, 86_400)
_texts = listing(text)
_type = one_of(
    *("float16", "float32", "float64", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
_TENSOR = record(
    {"name": text, "shape": listing(optional(integer(0, 1 << 31)), 0, 32), "type": _type},
    {
        "scale": optional(number(1e-300)),
        "zero_point": optional(integer(-(1 << 31), 1 << 31)),
        "real_type": optional(_type),
    },
)
_OPERATIONS: dict[Any, dict[str, Check]] = {
    "facts": {},
    "health": {},
    "inventory": {"objects": mapping(_size, sha256)},
    # An object lies in an upload, from byte `skip` on, or its first `kept` bytes lie here already and the rest there.
    "admit": {
        "objects": listing(
            record(
                {"sha256": sha256, "size_bytes": _size},
                {"temporary": _temporary, "skip": _size, "kept": _size},
                closed=True,
            )
        )
    },
    "profile": {
        "mode": text,
        "threads": integer(1, 1024),
        "accelerator": text,
        "seed": integer(-(1 << 62), 1 << 62),
        "repetitions": integer(1, 1000),
        "min_runs": integer(1, MAX_RUNS),
        "min_seconds": _seconds,
        "warm_up": record(
            {"min_runs": integer(0, MAX_RUNS), "min_seconds": _seconds, "max_seconds": _seconds}, closed=True
        ),
        "child_timeout_s": number(0.001, 86_400),
        "variants": listing(
            record(
                {
                    "id": text,
                    "format": text,
                    "artifact": sha256,
                    "contract": sha256,
                    "probe": sha256,
                    "tolerance": number(0, 1e9),
                },
                # The object that rebuilds the artifact, where that lies packed on the board.
                {"switch": SWITCH, "packed": record({"sha256": sha256, "file_bytes": _size}, closed=True)},
                closed=True,
            )
        ),
    },
    **RELEASE_OPERATIONS,
    # Ends among the runtimes under the name of the object's digest; `python` starts it where it brings none itself. One
    # of `imports` must import there, `also` need not.
    "unpack_runtime": {
        "sha256": sha256,
        "size_bytes": _size,
        "unpacked_bytes": _count,
        "files": integer(0, 50_000),
        "python": _line,
        "imports": listing(text, 1, 16),
    },
    "tidy_runtimes": {},
}
_OPTIONAL: dict[str, dict[str, Check]] = {
    "profile": {"max_runs": integer(1, MAX_RUNS)},
    "unpack_runtime": {"also": listing(text, 0, 16)},
}

_SNAPSHOT = record(
    {
        "governors": _texts,
        "frequencies_mhz": listing(number()),
        "temperatures_c": mapping(number()),
        "throttled": optional(integer(0, 1 << 32)),
        "load_1m": optional(number()),
        "free_memory_bytes": optional(_count),
        "battery_percent": optional(number()),
        "charging": optional(flag),
    }
)
_REPETITION = record(
    {
        "init_ns": _ns,
        "first_inference_ns": _ns,
        "warm_up_runs": _count,
        "warm_up_converged": flag,
        "samples_ns": naturals(MAX_RUNS),
        "before": _SNAPSHOT,
        "after": _SNAPSHOT,
    }
)
_VARIANT = record(
    {
        "id": text,
        "runtime": text,
        "runtime_version": text,
        "outcome": one_of(*OUTCOMES),
        "detail": text,
        "accelerator_used": text,
        "accelerator_share": optional(number(0, 1)),
        "placement": mapping(_count),
        "build_ns": optional(_ns),
        "max_output_error": optional(number()),
        "repetitions": listing(_REPETITION, 0, 1000),
        "memory": optional(
            record(
                {
                    "peak_rss_bytes": _count,
                    "baseline_peak_rss_bytes": _count,
                    "pss_bytes": optional(_count),
                    "baseline_pss_bytes": optional(_count),
                }
            )
        ),
        "energy": optional(
            record(
                dict(
                    dict.fromkeys(("total_mj", "above_idle_mj", "mean_w", "idle_w", "rate_hz", "coverage"), number()),
                    source=text,
                    scope=text,
                )
            )
        ),
        "absent": mapping(text),
    }
)
_RESULTS: dict[Any, dict[str, Check]] = {
    **RELEASE_RESULTS,
    "facts": {
        "facts": record(
            {
                "machine": text,
                "kernel": text,
                "python": text,
                "word_bits": integer(8, 128),
                "libc": text,
                "cpus": integer(1, 1 << 16),
                "isa": _texts,
                "memory_bytes": _count,
                "model_name": text,
                "runtimes": mapping(text),
                "power_sources": _texts,
                "closed": mapping(text),
                "libraries": mapping(text),
                "numpy": optional(text),
                # What can check signatures there: ssh-keygen, a library, or "".
                "verifier": text,
                "free_bytes": _count,
                "total_bytes": _count,
            }
        )
    },
    "health": {"state": _SNAPSHOT, "power": text, "no_power": text},
    "inventory": {
        "present": listing(sha256),
        # What lies here of an object that never arrived whole: digests of its beginnings, the longest last.
        "partial": mapping(listing(record({"bytes": _size, "sha256": sha256}), 1, MAX_MARKS), sha256),
        "free_bytes": _count,
        "total_bytes": _count,
    },
    "admit": {
        "admitted": listing(sha256),
        "refused": listing(record({"sha256": sha256, "reason": text})),
    },
    "profile": {"variants": listing(_VARIANT)},
    "tidy_runtimes": {"free_bytes": _count, "total_bytes": _count},
    "unpack_runtime": {
        "runtimes": mapping(text),
        "failed": mapping(text),
        "free_bytes": _count,
        "total_bytes": _count,
    },
}
_REPORT: dict[str, Check] = {
    "schema": _schema,
    "agent_sha256": sha256,
    "board": record(
        {
            "machine": text,
            "kernel": text,
            "python": text,
            "cpus": integer(1, 1 << 16),
            "isa": _texts,
            "emulated": flag,
        }
    ),
    "started_unix_ns": _ns,
    "finished_unix_ns": _ns,
    "results": listing(anything),
}
