"""Gives tests the sample outputs of boards, and lays sysfs trees out as files."""

from __future__ import annotations

import shlex
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


def lay_out(board: str, root: Path) -> Path:
    """Write the board's files and its vcgencmd below `root` and return `root`; unreadable files are left out."""
    commands = {}
    for name, sample in sources(board).items():
        if name.endswith(".sysfs"):
            for path, value in tree(board, name).items():
                if value:
                    _write(root / path.lstrip("/"), value + "\n")
        elif sample.reads.startswith("/"):
            _write(root / sample.reads.lstrip("/"), text(board, name))
        elif sample.reads.startswith("vcgencmd "):
            commands[sample.reads.partition(" ")[2]] = HERE / board / name
    if commands:
        cases = "".join(f"{command}) exec cat {shlex.quote(str(path))};;\n" for command, path in commands.items())
        script = root / "usr/bin/vcgencmd"
        _write(script, f"#!/bin/sh\ncase $1 in\n{cases}*) exit 255;;\nesac\n")
        script.chmod(0o755)
    return root


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, "utf-8")
