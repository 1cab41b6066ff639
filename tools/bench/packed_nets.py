"""What compressing for the container leaves of four nets, and what it costs them, beside the usual recipe."""

from __future__ import annotations

import copy
import multiprocessing
import os
import statistics
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedeploy.compress import PASSES, apply_passes
from edgedeploy.evaluate import evaluate_model
from edgedeploy.plan.passes import parse_pass
from edgedeploy.records import Precision
from tools.bench.coders import exported, measured, weights_bytes
from tools.bench.rows import OURS
from tools.bench.subjects import Subject, digits_subject
from tools.bench.tables import Cell, Table
from tools.bench.techniques import CNN
from tools.bench.trying import NETS

if TYPE_CHECKING:
    from torch import nn

SEEDS = (0, 1, 2)
USUAL, LEAN = "Deep Compression", "lean"
PEERS = ("Huffman", "zstd -22", "xz -9e")
COLUMNS = ("net", "recipe", "before", "after", "worst", "bytes", "ratio", "least ratio", *PEERS)
_FOLD: Mapping[str, Any] = {"kind": "optional", "pass": {"kind": "fold-batch-norm"}}
_RECOVER: Mapping[str, Any] = {"kind": "fine-tune", "epochs": 30, "learning_rate": 1e-3}
_SHARE: Mapping[str, Any] = {"kind": "share-weights", "clusters": 16, "biases": True}


def recipe(name: str, net: str) -> tuple[Mapping[str, Any], ...]:
    """The passes, as a plan names them.

    Batch norms are folded before clustering, for their scales would tell the clusters of each channel apart again.
    """
    if name == USUAL:
        return (
            _FOLD,
            {"kind": "prune-weights", "sparsity": 0.9},
            {"kind": "fine-tune", "epochs": 20, "learning_rate": 1e-3},
            {**_SHARE, "bias_clusters": 8},
            {"kind": "fine-tune", "epochs": 10, "learning_rate": 3e-4},
        )
    if net == CNN:  # more epochs do not help it
        sparsity, epochs, recover = 0.92, 60, tuple[Mapping[str, Any], ...]()
    else:
        sparsity, epochs, recover = 0.94, 120, (_RECOVER,)
    return (
        {
            "kind": "prune-gradually",
            "sparsity": sparsity,
            "importance": "gradient",
            "epochs": epochs,
            "learning_rate": 3e-3,
        },
        *recover,
        _FOLD,
        _SHARE,
        {"kind": "fine-tune", "epochs": 20, "learning_rate": 3e-4},
        {"kind": "reorder-channels"},
    )


def compressed(subject: Subject, name: str) -> nn.Module:
    """A copy of the net after the recipe of this name."""
    passes = [
        parse_pass(Path(name), f"passes[{number}]", table, PASSES)
        for number, table in enumerate(recipe(name, subject.name))
    ]
    return apply_passes(copy.deepcopy(subject.net), passes, subject.task)


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


def shrunk(net: str, seed: int) -> dict[str, Shrunk]:
    """Train the net, compress a copy by each recipe and pack what comes out. Raises BenchError."""
    import torch

    torch.set_num_threads(1)
    subject = digits_subject(net, NETS[net], seed=seed)
    before = evaluate_model(subject.net, subject.task, "test").quality.value
    dense_bytes = weights_bytes(exported(subject, subject.net, Precision.FP32))
    found = {}
    for name in (USUAL, LEAN):
        after = compressed(subject, name)
        made, rows = measured(net, exported(subject, after, Precision.FP32), dense_bytes)
        ratios = {str(row[1]): float(row[3] or 0) for row in rows}
        accuracy = evaluate_model(after, subject.task, "test").quality.value
        found[name] = Shrunk(before, accuracy, len(made.content), ratios)
    return found


def table() -> Table:
    """All nets of all seeds, as many at once as there are cores. Raises BenchError."""
    asked = [(net, seed) for net in NETS for seed in SEEDS]
    context = multiprocessing.get_context("spawn")  # torch's threads do not live through a fork
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as pool:
        found = dict(zip(asked, pool.map(shrunk, *zip(*asked, strict=True)), strict=True))
    rows = tuple(row(net, name, [found[net, seed][name] for seed in SEEDS]) for net in NETS for name in (USUAL, LEAN))
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
