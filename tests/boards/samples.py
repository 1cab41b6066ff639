"""Gives tests the sample outputs of boards, and lays sysfs trees out as files."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Source:
    """Where one sample comes from. `reads` is the command or the path that a board would be asked for."""

    reads: str
    captured: bool
    source: str


def boards() -> list[str]:
    """The boards that there are samples of."""
    return sorted(path.parent.name for path in HERE.glob("*/source.toml"))


def sources(board: str) -> dict[str, Source]:
    """The board's samples by file name, as its source.toml lists them."""
    table = tomllib.loads((HERE / board / "source.toml").read_text("utf-8"))
    return {name: Source(**entry) for name, entry in table.items()}


def text(board: str, name: str) -> str:
    """One sample as text."""
    return (HERE / board / name).read_text("utf-8")


def tree(board: str, name: str) -> dict[str, str]:
    """A `.sysfs` sample: the value of each path; an empty one stands for a file that cannot be read."""
    values = {}
    for line in text(board, name).splitlines():
        path, equals, value = line.partition(" =")
        if not path.startswith("/") or not equals:
            raise ValueError(f"{board}/{name}: a line is not `/path = value`: {line!r}")
        values[path] = value.strip()
    return values


def lay_out(board: str, names: list[str], root: Path) -> Path:
    """Write the files of `.sysfs` samples below `root` and return `root`; unreadable ones are left out."""
    for name in names:
        for path, value in tree(board, name).items():
            if value:
                file = root / path.lstrip("/")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(value + "\n", "utf-8")
    return root
