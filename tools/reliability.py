"""Counts the tests that break something and writes what each proves: `python -m tools.reliability`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "reliability.md"
_HEAD = """# What happens when something breaks

Each case below breaks something on purpose and proves that what it leaves is the old state or the new, never a third,
with an error that says what happened. Each runs against real parts: OpenSSH's sshd, Android's adbd, ssh-keygen, this
machine's own kernel; servers written for the purpose stand in only where no real one misbehaves that way.
`make test-faults` runs all. Those marked *lab* need the virtual lab ([lab.md](lab.md)) and fail where it cannot be had;
`make test` leaves them out.

{cases} cases, {lab} of them in the lab. A parametrised test counts once for each of its cases.
"""


class _Collected:
    """Gathers what pytest has found."""

    def __init__(self) -> None:
        self.items: list[pytest.Item] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Take over what was found."""
        self.items = list(session.items)


def collected() -> list[pytest.Item]:
    """Every test that carries the mark `fault`. Raises SystemExit where tests cannot be imported."""
    found = _Collected()
    code = pytest.main(["-q", "-q", "--collect-only", "-m", "fault", str(ROOT / "tests")], plugins=[found])
    if code:
        sys.exit(f"reliability: pytest could not collect the tests (exit code {int(code)}).")
    return found.items


def proven(item: pytest.Item) -> str:
    """The first paragraph of the test's docstring, or its name as words where it has none."""
    text: str = getattr(getattr(item, "function", None), "__doc__", None) or ""
    return " ".join(text.split("\n\n")[0].split()) or words(item)


def words(item: pytest.Item) -> str:
    """A test's name as a sentence."""
    name: str = getattr(item, "originalname", None) or item.name
    return name.removeprefix("test_").replace("_", " ").capitalize() + "."


def page(items: list[pytest.Item]) -> str:
    """The document: one table a file of tests, one row a test."""
    rows: dict[str, Counter[tuple[str, str]]] = {}
    for item in items:
        mark = " *lab*" if item.get_closest_marker("lab") else ""
        rows.setdefault(item.location[0], Counter())[words(item) + mark, proven(item)] += 1
    lab = sum(1 for item in items if item.get_closest_marker("lab"))
    parts = [_HEAD.format(cases=len(items), lab=lab)]
    parts += [section(file, counted) for file, counted in sorted(rows.items())]
    return "\n".join(parts)


def section(file: str, counted: Mapping[tuple[str, str], int]) -> str:
    """The rows of one file."""
    lines = [f"## {file}: {sum(counted.values())}", "", "| case | what it proves | cases |", "|---|---|---|"]
    for (case, what), number in counted.items():
        cells = case, "" if what == case else what, str(number)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    DOCUMENT.write_text(page(collected()), "utf-8")
