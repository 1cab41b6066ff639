"""The deadlines that tests hold what they test to."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


@contextlib.contextmanager
def soon(limit_s: float) -> Iterator[None]:
    """What is done here takes less than `limit_s`, by far where all is well."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < limit_s
