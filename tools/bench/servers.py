"""A board for a bench: an SSH server on loopback, or in words why this machine has none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tools.bench.rows import BenchError
from tools.loopback_ssh import ALIAS, LoopbackServer, loopback_ssh


@contextmanager
def bench_server(bench: str, folder: Path, alias: str = ALIAS) -> Iterator[LoopbackServer]:
    """A server whose files lie in `folder` until the block ends. Raises BenchError for the bench of this name."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(loopback_ssh(folder, alias=alias))
        except RuntimeError as error:
            raise BenchError(f"{bench}: {error}") from error
        yield server
