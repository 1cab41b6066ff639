"""Read and write small files so that nobody ever sees half of one."""

from __future__ import annotations

import json
import os
from typing import Any

MAX_JOB_BYTES = 16 << 20


def read_json(path: str, max_bytes: int = MAX_JOB_BYTES) -> Any:
    """Return the document. Raises OSError, ValueError where it is too large or no JSON."""
    with open(path, "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"{path} is larger than {max_bytes} bytes")
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error


def write_json(path: str, document: Any) -> None:
    """Write the document as `write_text` does. Raises OSError, ValueError for a number that JSON cannot say."""
    write_text(path, json.dumps(document, allow_nan=False, default=list))


def write_text(path: str, text: str) -> None:
    """Write the text under another name, sync it and rename it; leaves nothing behind on failure. Raises OSError."""
    temporary = f"{path}.{os.getpid()}.part"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(os.path.dirname(path) or ".")
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)


def sync(path: str) -> None:
    """Make the content of a file, or renames inside a folder, survive a loss of power. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
