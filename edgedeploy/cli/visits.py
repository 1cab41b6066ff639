"""Tells what came of visits to boards in the one way that every verb does."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from edgedeploy.lab import Visited, worst_exit_code


def visit_record(visited: Visited[Any]) -> dict[str, Any]:
    """What JSON says of a visit whatever came of it."""
    return {"device": visited.device, "error": str(visited.error) if visited.error else None}


def print_passed_over(visits: Sequence[Visited[Any]]) -> None:
    """Why devices were left alone, a line each."""
    for visited in visits:
        if visited.passed_over:
            print(f"{visited.device}: {visited.passed_over}.")


def print_errors(visits: Sequence[Visited[Any]]) -> int:
    """Why visits failed, a sentence each on stderr; returns the exit code of all of them."""
    for visited in visits:
        if visited.error is not None:
            print(f"edgedeploy: {visited.error}", file=sys.stderr)
    return worst_exit_code(visits)
