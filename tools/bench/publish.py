"""Puts a bench's rows where they are looked for: the terminal, a JSON file, and the documentation."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from tools.bench.rows import BenchError, Row

if TYPE_CHECKING:
    from rich.console import Console


def machine() -> str:
    """Describe the machine in one line: processor, cores, kernel, Python."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        cpuinfo = ""
    model = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return (
        f"{model[1].strip() if model else platform.machine()}, {cores} cores, "
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    )


def versions(distributions: Sequence[str]) -> str:
    """The versions of those distributions that are installed, as text."""
    there = {found.name.lower().replace("_", "-"): found.version for found in metadata.distributions() if found.name}
    return ", ".join(f"{name} {there[name]}" for name in distributions if name in there)


def remove_json(folder: Path, name: str) -> None:
    """Remove what an earlier run left, so that a run that fails cannot pass for one that succeeded."""
    (folder / f"{name}.json").unlink(missing_ok=True)


def write_json(folder: Path, name: str, where: str, rows: Sequence[Row]) -> Path:
    """Write the rows as `folder`/`name`.json and return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    document = {"bench": name, "machine": where, "rows": [dataclasses.asdict(row) for row in rows]}
    path.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    return path


def print_table(console: Console, title: str, rows: Sequence[Row]) -> None:
    """Print the rows for a reader at a terminal."""
    table = Table(title=title, title_justify="left")
    for column in _COLUMNS:
        table.add_column(column, justify="right" if column in ("ours", "spread") else "left")
    for row in rows:
        table.add_row(*_cells(row, "\n"))
    console.print(table)


def section(name: str, title: str, how: str, made: str, rows: Sequence[Row]) -> str:
    """Return the bench's part of docs/benchmarks.md, its markers included."""
    lines = [
        f"<!-- bench:{name} -->",
        f"## {title}",
        "",
        how,
        "",
        f"Made by `make bench ONLY={name}` {made}.",
        "",
        "| " + " | ".join(_COLUMNS) + " |",
        "|" + "---|" * len(_COLUMNS),
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |" for row in rows),
        f"<!-- /bench:{name} -->",
    ]
    return "\n".join(lines)


def replace_section(text: str, name: str, new: str) -> str:
    """Return `text` with the bench's section replaced, or added at the end. Raises BenchError."""
    start, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    if (text.count(start), text.count(end)) not in ((0, 0), (1, 1)) or text.find(start) > text.find(end):
        raise BenchError(
            f"docs/benchmarks.md: the markers of `{name}` do not pair; leave one `{start}` and one `{end}`."
        )
    if start not in text:
        return f"{text.rstrip()}\n\n{new}\n"
    before, _, rest = text.partition(start)
    return before + new + rest.partition(end)[2]


_COLUMNS = ("task", "unit", "better", "ours", "spread", "peers")


def _cells(row: Row, between: str = ", ") -> list[str]:
    peers = between.join(f"{name} {value:g}" for name, value in row.peers.items())
    return [row.task, row.unit, row.better, f"{row.ours:g}", f"{row.spread:g}", peers]
