"""What a report looks like: apart from jobs, because the host alone reads it and a board is not to load it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .checks import anything, flag, integer, listing, mapping, naturals, number, one_of, optional, record, sha256, text
from .limits import MAX_OBJECT_BYTES
from .release_schema import RELEASE_RESULTS
from .schema import MAX_RUNS, schema_number

if TYPE_CHECKING:
    from .checks import Check

OUTCOMES = ("ok", "unsupported", "out_of_memory", "timeout", "crashed", "mismatch")
ERROR_KINDS = ("locked", "bad_job", "io", "no_runtime", "refused")
MAX_MARKS = 64


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


_size = integer(0, MAX_OBJECT_BYTES)
_count = integer(0, 1 << 62)
_ns = integer(0, 1 << 62)
_texts = listing(text)
_SNAPSHOT = record(
    {
        "governors": _texts,
        "frequencies_mhz": listing(number()),
        "temperatures_c": mapping(number()),
        "throttled": optional(integer(0, 1 << 32)),
        "cooling": mapping(_count),
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
    "schema": schema_number,
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
