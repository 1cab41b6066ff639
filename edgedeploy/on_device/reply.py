"""Carries a job in by argument and its report out by standard output, told apart from what else is written there."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import zlib
from typing import Any

from .documents import MAX_JOB_BYTES

_MARK = b"edgedeploy-report"


def take_output() -> int:
    """Return a descriptor of standard output for the report alone; what else writes there now gets standard error."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return kept


def pack_job(content: bytes) -> str:
    """Return a job as one argument of a command."""
    return base64.b64encode(zlib.compress(content)).decode("ascii")


def unpack_job(argument: str) -> Any:
    """Return the job in an argument. Raises ValueError where it holds none, or one that is too large."""
    try:
        return json.loads(_inflate(argument.encode("ascii"), MAX_JOB_BYTES).decode("utf-8"))
    except RecursionError as error:
        raise ValueError("the job is nested too deeply") from error


def frame(content: bytes, token: str) -> bytes:
    """Return a report as one line that begins with the asker's `token` and the report's SHA-256."""
    digest = hashlib.sha256(content).hexdigest().encode("ascii")
    return b"\n" + b" ".join([_MARK, token.encode("ascii"), digest, base64.b64encode(zlib.compress(content))]) + b"\n"


def find_frame(output: bytes, token: str, max_bytes: int) -> bytes:
    """Return the report in `output`, whatever else is written there.

    Raises ValueError where there is none, or it is cut short, was changed or is longer than `max_bytes`.
    """
    start = output.rfind(b"\n" + _MARK + b" " + token.encode("ascii") + b" ")
    end = output.find(b"\n", start + 1)
    if start < 0 or end < 0:
        raise ValueError("there is none" if start < 0 else "it is cut short")
    fields = output[start + 1 : end].split()
    if len(fields) != 4:
        raise ValueError("its frame is damaged")
    content = _inflate(fields[3], max_bytes)
    if hashlib.sha256(content).hexdigest().encode("ascii") != fields[2]:
        raise ValueError("it changed on the way: its SHA-256 is another one")
    return content


def _inflate(text: bytes, max_bytes: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(base64.b64decode(text, validate=True), max_bytes + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError("it cannot be unpacked: " + str(error)) from error
    if len(content) > max_bytes:
        raise ValueError("it is longer than %d bytes" % max_bytes)
    if not inflater.eof:
        raise ValueError("it is cut short")
    return content
