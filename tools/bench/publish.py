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
from typing import TYPE_CHECKING, Any

from rich.table import Table as RichTable

from tools.bench.rows import BenchError, Row
from tools.bench.tables import Cell, Table, shown

if TYPE_CHECKING:
    from rich.console import Console


# What decides how fast int8 is.
_INTEGER_FLAGS = ("avx2", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


def machine() -> str:
    """Describe the machine in one line: processor, its instructions for integers, cores, kernel, Python."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        cpuinfo = ""
    model = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    integers = [flag for flag in _INTEGER_FLAGS if flags and flag in flags[1].split()]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    name = ", ".join((model[1].strip() if model else platform.machine(), *integers))
    return f"{name}, {cores} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


def versions(distributions: Sequence[str]) -> str:
    """The versions of those distributions that are installed, as text."""
    there = {found.name.lower().replace("_", "-"): found.version for found in metadata.distributions() if found.name}
    return ", ".join(f"{name} {there[name]}" for name in distributions if name in there)


def remove_json(folder: Path, name: str) -> None:
    """Remove what an earlier run left, so that a run that fails cannot pass for one that succeeded."""
    (folder / f"{name}.json").unlink(missing_ok=True)


def write_json(folder: Path, name: str, where: str, found: Sequence[Row | Table]) -> Path:
    """Write what was found as `folder`/`name`.json and return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    rows, tables = _parted(found)
    document: dict[str, Any] = {"bench": name, "machine": where, "rows": [dataclasses.asdict(row) for row in rows]}
    if tables:
        document["tables"] = [{"title": table.title, "rows": table.records()} for table in tables]
    path.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    return path


def print_tables(console: Console, title: str, found: Sequence[Row | Table]) -> None:
    """Print what was found for a reader at a terminal."""
    for at in _tables(found, title, "\n"):
        table = RichTable(title=at.title, title_justify="left")
        for number, column in enumerate(at.columns):
            figures = all(isinstance(row[number], int | float | None) for row in at.rows)
            table.add_column(column, justify="right" if figures else "left")
        for row in at.rows:
            table.add_row(*(cell if isinstance(cell, str) else shown(cell) for cell in row))
        console.print(table)


def section(name: str, title: str, how: str, made: str, found: Sequence[Row | Table]) -> str:
    """Return the bench's part of docs/benchmarks.md, its markers included."""
    lines = [f"<!-- bench:{name} -->", f"## {title}", "", how, "", f"Made by `make bench ONLY={name}` {made}."]
    for table in _tables(found, "", ", "):
        lines += ["", *([f"### {table.title}", ""] if table.title else [])]
        lines += [_line(table.columns), "|" + "---|" * len(table.columns), *(_line(row) for row in table.rows)]
    return "\n".join([*lines, f"<!-- /bench:{name} -->"])


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


def _line(cells: Sequence[Cell]) -> str:
    return "| " + " | ".join(shown(cell).replace("|", "\\|") for cell in cells) + " |"


def _parted(found: Sequence[Row | Table]) -> tuple[list[Row], list[Table]]:
    return [each for each in found if isinstance(each, Row)], [each for each in found if isinstance(each, Table)]


def _tables(found: Sequence[Row | Table], title: str, between: str) -> list[Table]:
    """All rows as one table under `title`, then the tables."""
    rows, tables = _parted(found)
    if rows:
        tables.insert(0, Table(title, _COLUMNS, tuple(_cells(row, between) for row in rows)))
    return tables


def _cells(row: Row, between: str) -> tuple[Cell, ...]:
    peers = between.join(f"{name} {value:g}" for name, value in row.peers.items())
    return row.task, row.unit, row.better, float(row.ours), float(row.spread), peers
