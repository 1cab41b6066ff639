"""What a job looks like: one set of checks for the host that writes it and the board that reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .checks import (
    MalformedDocument,
    absolute,
    anything,
    fail,
    integer,
    listing,
    mapping,
    number,
    one_of,
    optional,
    record,
    sha256,
    text,
)
from .limits import MAX_OBJECT_BYTES
from .release_schema import RELEASE_OPERATIONS
from .switching import SWITCH

if TYPE_CHECKING:
    from .checks import Check

__all__ = ["MalformedDocument", "check_contract", "check_envelope", "check_job", "check_operation"]

SCHEMA = 1
FORMATS = ("onnx", "tflite")
MAX_CONTRACT_BYTES = 1 << 20
# A steady phase ends here even when its seconds are not over, so that a report fits into a small board's memory.
MAX_RUNS = 1_000_000


def check_job(job: Any) -> None:
    """Check a whole job, every operation included. Raises MalformedDocument."""
    check_envelope(job)
    for place, operation in enumerate(job["operations"]):
        check_operation(operation, f"operations[{place}]")


def check_envelope(job: Any) -> None:
    """Check all of a job but its operations, which fail one by one. Raises MalformedDocument."""
    fields = {"schema": schema_number, "root": absolute, "operations": listing(anything, 1)}
    record(fields, closed=True)(job, "job")


def check_operation(operation: Any, where: str) -> None:
    """Check one operation of a job. Raises MalformedDocument."""
    mapping(anything)(operation, where)
    kind = operation.get("op")
    one_of(*_OPERATIONS)(kind, f"{where}.op")
    record(dict(_OPERATIONS[kind], op=text), _OPTIONAL.get(kind), closed=True)(operation, where)


def check_contract(contract: Any) -> None:
    """Check the contract beside a model as far as running the model needs it. Raises MalformedDocument."""
    fields = {"schema": schema_number, "format": one_of(*FORMATS)}
    record(dict(fields, inputs=listing(_TENSOR, 1), outputs=listing(_TENSOR, 1)))(contract, "contract")


def schema_number(value: Any, where: str) -> None:
    """Accept the number of this schema."""
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
_seconds = number(0, 86_400)
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
