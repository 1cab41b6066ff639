"""Runs one bench or all of them: `python -m tools.bench [NAME]`."""

from __future__ import annotations

import datetime
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

from rich.console import Console

from tools.bench import publish
from tools.bench.rows import BenchError, Row
from tools.bench.tables import Table

ROOT = Path(__file__).parents[2]

# name -> module; a new bench is one file and one line here.
BENCHES: Mapping[str, str] = {
    "agent": "tools.bench.agent",
    "compress": "tools.bench.compress",
    "fleet": "tools.bench.fleet",
    "packing": "tools.bench.packing",
    "push": "tools.bench.push",
    "quantise": "tools.bench.quantise",
    "startup": "tools.bench.startup",
}


class Bench(Protocol):
    """What a bench's module has: a heading, how it measures, whose versions matter, and the measuring itself."""

    TITLE: str
    HOW: str
    TOOLS: tuple[str, ...]

    def run(self) -> Sequence[Row | Table]:
        """Measure, for minutes perhaps. Raises BenchError where this machine lacks something."""


def main(argv: Sequence[str], benches: Mapping[str, str] = BENCHES, root: Path = ROOT) -> int:
    """Run the benches named in `argv`, or all; return the exit code."""
    unknown = [name for name in argv if name not in benches]
    if unknown or len(argv) > 1:
        found = f"there is no bench `{unknown[0]}`" if unknown else "name one bench or none"
        print(f"bench: {found}; there are: {', '.join(benches)}.", file=sys.stderr)
        return 2
    try:
        for name in argv or benches:
            measure(name, benches[name], root)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 3
    return 0


def measure(name: str, module: str, root: Path) -> None:
    """Run one bench and put what it found everywhere. Raises BenchError."""
    results, document = root / "build" / "bench", root / "docs" / "benchmarks.md"
    publish.remove_json(results, name)
    bench = cast("Bench", importlib.import_module(module))
    load = os.getloadavg()[0]
    found = bench.run()
    if not found:
        raise BenchError(f"{name}: measured nothing.")
    where = publish.machine()
    today = datetime.datetime.now(datetime.UTC).date()
    made = f"on {today}: {where}, load {load:.1f} at the start; {publish.versions(bench.TOOLS)}"
    publish.print_tables(Console(), bench.TITLE, found)
    publish.write_json(results, name, where, found)
    section = publish.section(name, bench.TITLE, bench.HOW, made, found)
    document.write_text(publish.replace_section(document.read_text("utf-8"), name, section), "utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
