"""Measures how small files become for disk and wire, beside the field's coders, and how fast a board rebuilds them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

import numpy as np

from tools.bench import packed_nets
from tools.bench.coders import account, measured, need_coders
from tools.bench.tables import Cell, Table
from tools.bench.trying import NETS

TITLE = "Packing"
HOW = (
    "Digits nets are trained here, compressed by one of two recipes and exported as ONNX. `Deep Compression` prunes "
    "to 90 % zeros at once, fine-tunes, clusters to 16 values a layer and fine-tunes these; `lean` prunes gradually "
    "by gradient importance to 94 % (the CNN 92 %), fine-tunes (not the CNN), clusters, fine-tunes the centroids and "
    "re-orders channels. `before` and `after` are mean accuracies on the 397 images of the test splits of three "
    "seeds, which decide the start and the splits (one image is .0025), `worst` the largest loss; ratios are means "
    "over the seeds, over the bytes of the dense net's weights. Settings were tried on the same three seeds. `int8` "
    "is static int8, `dense` the trained net. The synthetic files hold one tensor of random weights. Every contender "
    "takes the whole file, except Huffman and constriction's ANS: those take the symbols of each tensor alone, and "
    "its different values as a table. `ratio` is the bytes of the weights over what rebuilds them, the graph apart "
    "where a coder keeps it apart; `/ entropy` is over the order-0 entropy of each tensor's values, without tables, "
    "where tables make sense. Speeds are of one thread's CPU time and of the whole file, in decimal megabytes."
)
TOOLS = ("edgedeploy", "numpy", "zstandard", "constriction")
COLUMNS = ("file", "by", "bytes", "ratio", "/ entropy", "encode s", "decode MB/s")
SPARSITY, CLUSTERS = 0.9, 16
MIB = (1, 4, 16)


def run() -> list[Table]:
    """Fill the tables. Raises BenchError."""
    need_coders()
    rows: list[tuple[Cell, ...]] = []
    parts: list[tuple[Cell, ...]] = []
    nets = packed_nets.all_compressed()
    for name, content in _files(nets):
        print(f"packing {name}: {len(content):,} bytes", file=sys.stderr, flush=True)
        made, found = measured(name, content)
        rows += found
        parts += account(name, made) if len(content) < 1 << 20 else []
    columns = ("file", "tensor", "symbols", "coders", "bytes")
    return [
        packed_nets.table(nets),
        Table("Files", COLUMNS, tuple(rows)),
        Table("Where the bytes go", columns, tuple(parts)),
    ]


def _files(nets: Mapping[tuple[str, int], packed_nets.Net]) -> Iterator[tuple[str, bytes]]:
    for net in NETS:
        files = nets[net, packed_nets.SEEDS[0]].files
        for what in (packed_nets.DENSE, packed_nets.INT8, packed_nets.LEAN):
            yield f"{net}, {what}", files[what]
    chance = np.random.default_rng(0)
    for mib in MIB:
        for kind in ("sparse", "clustered", "both", "int8", "dense"):
            yield f"{kind}, {mib} MiB", synthetic(kind, mib << 20, chance)


def synthetic(kind: str, size_bytes: int, chance: np.random.Generator) -> bytes:
    """A model with one tensor of random weights that takes this many bytes."""
    from onnx import helper, numpy_helper

    items = size_bytes if kind == "int8" else size_bytes // 4
    dense = chance.normal(0, 0.05, (items // 1024, 1024)).astype(np.float32)
    array: np.ndarray = dense
    if kind == "int8":
        array = np.clip(np.rint(dense * 500), -127, 127).astype(np.int8)
    elif kind != "dense":
        kept = np.abs(dense) > np.quantile(np.abs(dense), SPARSITY if kind != "clustered" else 0)
        centroids = np.quantile(dense[kept], np.linspace(0.01, 0.99, CLUSTERS)).astype(np.float32)
        values = dense if kind == "sparse" else centroids[np.searchsorted(centroids[:-1], dense)]
        array = values if kind == "clustered" else np.where(kept, values, np.float32(0))
    graph = helper.make_graph([], "graph", [], [], [numpy_helper.from_array(array, "weight")])
    content: bytes = helper.make_model(graph).SerializeToString()
    return content
