"""The bench of packing measures what it says, on files that take no time to make."""

from __future__ import annotations

import numpy as np
import pytest

from tools.bench import packing
from tools.bench.rows import OURS


@pytest.mark.parametrize("kind", ["sparse", "clustered", "both", "int8", "dense"])
def test_every_contender_has_a_row_for_every_file(kind: str) -> None:
    content = packing.synthetic(kind, 1 << 16, np.random.default_rng(0))
    made, rows = packing.measured(kind, content)
    by = {row[1]: row for row in rows}
    whole = [OURS, "zstd -22", "xz -9e", "zlib -9"]
    assert list(by) == whole + (["Huffman", "constriction ANS"] if kind != "dense" else [])
    sizes = {name: row[2] for name, row in by.items() if isinstance(row[2], int)}
    assert sizes[OURS] == min(sizes[name] for name in whole)
    parts = [row[4] for row in packing.account(kind, made)]
    assert sum(part for part in parts if isinstance(part, int)) == pytest.approx(len(made.content), rel=0.02, abs=12)


def test_huffman_and_ans_take_what_they_should() -> None:
    tensor = np.repeat(np.array([0, 1, 2, 3], np.uint8), [4000, 2000, 1000, 1000])
    # 1, 2, 3 and 3 bits, which these frequencies deserve, and a table of four bytes.
    assert packing._huffman_bytes(tensor) == 14000 // 8 + 4
    assert packing._ans_bytes(tensor) == pytest.approx(14000 / 8 + 4, abs=12)
