"""The bench of packing measures what it says, on files that take no time to make."""

from __future__ import annotations

import numpy as np
import pytest

from edgedeploy.compress import misplaced
from tools.bench import coders, packed_nets, packing
from tools.bench.rows import OURS
from tools.bench.techniques import Technique
from tools.bench.trying import NETS, passes_of


@pytest.mark.parametrize("kind", ["sparse", "clustered", "both", "int8", "dense"])
def test_every_contender_has_a_row_for_every_file(kind: str) -> None:
    content = packing.synthetic(kind, 1 << 16, np.random.default_rng(0))
    made, rows = coders.measured(kind, content)
    by = {row[1]: row for row in rows}
    whole = [OURS, "zstd -22", "xz -9e", "zlib -9"]
    assert list(by) == whole + (["Huffman", "constriction ANS"] if kind != "dense" else [])
    sizes = {name: row[2] for name, row in by.items() if isinstance(row[2], int)}
    assert sizes[OURS] == min(sizes[name] for name in whole)
    parts = [row[4] for row in coders.account(kind, made)]
    assert sum(part for part in parts if isinstance(part, int)) == pytest.approx(len(made.content), rel=0.02, abs=12)


def test_huffman_and_ans_take_what_they_should() -> None:
    tensor = np.repeat(np.array([0, 1, 2, 3], np.uint8), [4000, 2000, 1000, 1000])
    # 1, 2, 3 and 3 bits, which these frequencies deserve, and a table of four bytes.
    assert coders._huffman_bytes(tensor) == 14000 // 8 + 4
    assert coders._ans_bytes(tensor) == pytest.approx(14000 / 8 + 4, abs=12)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("recipe", packed_nets.RECIPES, ids=lambda recipe: recipe.name)
def test_both_recipes_can_be_read_for_every_net(net: str, recipe: Technique) -> None:
    passes = passes_of(recipe, net)
    kinds = [one.kind for one in passes]
    assert misplaced(passes) is None
    assert kinds.index("optional") < kinds.index("share-weights")


def test_a_row_tells_the_means_the_largest_loss_and_the_least_ratio() -> None:
    ratios = dict.fromkeys(packed_nets.PEERS, 20.0)
    seeds = [
        packed_nets.Shrunk(0.97, 0.98, 4000, {OURS: 40.0, **ratios}),
        packed_nets.Shrunk(0.99, 0.97, 5000, {OURS: 50.0, **ratios}),
    ]
    row = packed_nets.row("net", "lean", seeds)
    assert dict(zip(packed_nets.COLUMNS, row, strict=True)) == {
        "net": "net",
        "recipe": "lean",
        "before": 0.98,
        "after": 0.975,
        "worst": pytest.approx(0.02),
        "bytes": 4500,
        "ratio": 45.0,
        "least ratio": 40.0,
        **ratios,
    }
