"""What a bench says that has more to show than one ratio a line: a table with columns of its own."""

from __future__ import annotations

from dataclasses import dataclass

Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Table:
    """Cells under named columns, as many in every row; None where there is nothing to say."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.title}: {len(row)} cells {row} under {len(self.columns)} columns")

    def records(self) -> list[dict[str, Cell]]:
        """The rows as they are written to JSON: a cell by the name of its column."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def shown(cell: Cell) -> str:
    """A cell as it is read: bytes in groups of three, ratios to four digits, a dash for what there is not."""
    if cell is None or cell == "":
        return "-"
    if isinstance(cell, str):
        return " ".join(cell.split())
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:.4g}"
