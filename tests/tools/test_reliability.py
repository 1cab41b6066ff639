"""docs/reliability.md counts what the tests break."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FAULT = re.compile(r"^@pytest\.mark\.fault\n(?:@.*\n(?:[ )\]].*\n)*)*def (test_\w+)\(", re.MULTILINE)
WHOLE_FILE = re.compile(r"^pytestmark = .*pytest\.mark\.fault\b", re.MULTILINE)
ANY = re.compile(r"^def (test_\w+)\(", re.MULTILINE)


def faults(text: str) -> list[str]:
    """The tests of a file that carry the mark."""
    return (ANY if WHOLE_FILE.search(text) else FAULT).findall(text)


def test_every_fault_is_in_the_document() -> None:
    document = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    missing = [
        f"{path.name}: {name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for name in faults(path.read_text("utf-8"))
        if name.removeprefix("test_").replace("_", " ").capitalize() not in document
    ]
    assert not missing, "write docs/reliability.md anew: python -m tools.reliability"


def test_the_count_is_that_of_the_tables() -> None:
    document = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    cases = re.findall(r"^\| .* \| (\d+) \|$", document, re.MULTILINE)
    stated = re.search(r"^(\d+) cases", document, re.MULTILINE)
    assert stated is not None
    assert sum(map(int, cases)) == int(stated[1]) >= 60
