"""What compressing for the container leaves of four nets, and what it costs them, beside the usual recipe."""

from __future__ import annotations

import copy
import multiprocessing
import os
import statistics
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from edgedeploy.compress import apply_passes
from edgedeploy.evaluate import evaluate_model
from edgedeploy.records import Precision
from tools.bench.coders import exported, measured, weights_bytes
from tools.bench.rows import OURS
from tools.bench.subjects import digits_subject
from tools.bench.tables import Cell, Table
from tools.bench.techniques import CNN, FOLD, GRADUALLY, Passes, Technique
from tools.bench.trying import NETS, passes_of

SEEDS = (0, 1, 2)
USUAL, LEAN = "Deep Compression", "lean"
DENSE, INT8 = "dense", "int8"
PEERS = ("Huffman", "zstd -22", "xz -9e")
COLUMNS = ("net", "recipe", "before", "after", "worst", "bytes", "ratio", "least ratio", *PEERS)
_SHARE: Mapping[str, Any] = {"kind": "share-weights", "clusters": 16, "biases": True}
_LEARN: Mapping[str, Any] = {"kind": "fine-tune", "epochs": 20, "learning_rate": 1e-3}


def _lean(sparsity: float, epochs: int, *recover: Mapping[str, Any]) -> Passes:
    return (
        {**GRADUALLY, "sparsity": sparsity, "importance": "gradient", "epochs": epochs},
        *recover,
        FOLD,
        _SHARE,
        {**_LEARN, "learning_rate": 3e-4},
        {"kind": "reorder-channels"},
    )


# Batch norms are folded before clustering, for their scales would tell the clusters of each channel apart again.
RECIPES = (
    Technique(
        USUAL,
        (
            FOLD,
            {"kind": "prune-weights", "sparsity": 0.9},
            _LEARN,
            {**_SHARE, "bias_clusters": 8},
            {**_LEARN, "epochs": 10, "learning_rate": 3e-4},
        ),
    ),
    # To learn longer does not help the CNN.
    Technique(LEAN, _lean(0.94, 120, {**_LEARN, "epochs": 30}), {CNN: _lean(0.92, 60)}),
)


@dataclass(frozen=True, slots=True)
class Shrunk:
    """One net of one seed after one recipe.

    `before` and `after` are its accuracies on the test split; `ratios` say by coder how often the bytes that rebuild
    the net's weights go into those of the dense net's.
    """

    before: float
    after: float
    packed_bytes: int
    ratios: Mapping[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Net:
    """What became of one net of one seed: `shrunk` by recipe, and its ONNX `files` by what they hold."""

    shrunk: Mapping[str, Shrunk]
    files: Mapping[str, bytes]


def compressed(net: str, seed: int) -> Net:
    """Train the net, compress a copy by each recipe and pack what comes out. Raises BenchError."""
    import torch

    torch.set_num_threads(1)
    subject = digits_subject(net, NETS[net], seed=seed)
    before = evaluate_model(subject.net, subject.task, "test").quality.value
    files = {DENSE: exported(subject, subject.net, Precision.FP32)}
    shrunk = {}
    for recipe in RECIPES:
        after = apply_passes(copy.deepcopy(subject.net), passes_of(recipe, net), subject.task)
        files[recipe.name] = exported(subject, after, Precision.FP32)
        made, rows = measured(net, files[recipe.name], weights_bytes(files[DENSE]))
        ratios = {str(row[1]): float(row[3] or 0) for row in rows}
        accuracy = evaluate_model(after, subject.task, "test").quality.value
        shrunk[recipe.name] = Shrunk(before, accuracy, len(made.content), ratios)
    if seed == SEEDS[0]:
        files[INT8] = exported(subject, subject.net, Precision.INT8)
    return Net(shrunk, files)


def all_compressed() -> dict[tuple[str, int], Net]:
    """All nets of all seeds, as many at once as there are cores. Raises BenchError."""
    asked = [(net, seed) for net in NETS for seed in SEEDS]
    context = multiprocessing.get_context("spawn")  # torch's threads do not live through a fork
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as pool:
        return dict(zip(asked, pool.map(compressed, *zip(*asked, strict=True)), strict=True))


def table(nets: Mapping[tuple[str, int], Net]) -> Table:
    """One row for each net and recipe."""
    rows = tuple(
        row(net, recipe.name, [nets[net, seed].shrunk[recipe.name] for seed in SEEDS])
        for net in NETS
        for recipe in RECIPES
    )
    return Table("Nets made small", COLUMNS, rows)


def row(net: str, name: str, seeds: list[Shrunk]) -> tuple[Cell, ...]:
    """Means over the seeds, the largest loss of accuracy and our least ratio among them."""
    ratios = {by: [each.ratios[by] for each in seeds] for by in (OURS, *PEERS)}
    return (
        *(net, name, statistics.fmean(each.before for each in seeds), statistics.fmean(each.after for each in seeds)),
        max(each.before - each.after for each in seeds),
        round(statistics.fmean(each.packed_bytes for each in seeds)),
        *(statistics.fmean(ratios[OURS]), min(ratios[OURS])),
        *(statistics.fmean(ratios[by]) for by in PEERS),
    )
