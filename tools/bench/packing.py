"""Measures how small files become for disk and wire, beside the field's coders, and how fast a board rebuilds them."""

from __future__ import annotations

import copy
import heapq
import lzma
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedeploy import export
from edgedeploy.compress import PASSES, apply_passes
from edgedeploy.on_device.unpacking import unpack
from edgedeploy.packing import Packed, onnx_constants, pack
from edgedeploy.records import Format, Precision, Target
from tools.bench import subjects
from tools.bench.rows import OURS, BenchError
from tools.bench.tables import Cell, Table

if TYPE_CHECKING:
    from torch import nn

TITLE = "Packing"
HOW = (
    "Digits nets are trained here, pruned to 90 % zeros, fine-tuned and their weights clustered to 16 values a layer "
    "(biases to 8), as in Deep Compression, then exported as ONNX; `int8` is static int8, `dense` the trained net. "
    "The synthetic files hold one tensor of random weights. Every contender takes the whole file, except Huffman and "
    "constriction's ANS: those take the symbols of each tensor alone, and its different values as a table. `ratio` is "
    "the bytes of the weights over what rebuilds them, the graph apart where a coder keeps it apart; `/ entropy` is "
    "over the order-0 entropy of each tensor's values, without tables, where tables make sense. Speeds are of one "
    "thread's CPU time and of the whole file, in decimal megabytes."
)
TOOLS = ("edgedeploy", "numpy", "zstandard", "constriction")
COLUMNS = ("file", "by", "bytes", "ratio", "/ entropy", "encode s", "decode MB/s")
SPARSITY, CLUSTERS, BIAS_CLUSTERS = 0.9, 16, 8
MIB = (1, 4, 16)
_LARGEST_TABLE = 1 << 12


def run() -> list[Table]:
    """Fill the tables. Raises BenchError."""
    try:
        import constriction  # noqa: F401
        import zstandard  # noqa: F401
    except ImportError as error:
        raise BenchError(f"packing: needs {error.name}; install the dev extra.") from error
    rows: list[tuple[Cell, ...]] = []
    parts: list[tuple[Cell, ...]] = []
    for name, content in _files():
        print(f"packing {name}: {len(content):,} bytes", file=sys.stderr, flush=True)
        made, found = measured(name, content)
        rows += found
        parts += account(name, made) if len(content) < 1 << 20 else []
    columns = ("file", "tensor", "symbols", "coders", "bytes")
    return [Table("Files", COLUMNS, tuple(rows)), Table("Where the bytes go", columns, tuple(parts))]


def measured(name: str, content: bytes) -> tuple[Packed, list[tuple[Cell, ...]]]:
    """One row for each contender, ours checked to give the file back."""
    tensors = [
        np.frombuffer(content[each.start : each.end], each.element.value) for each in onnx_constants.constants(content)
    ]
    weights = sum(tensor.nbytes for tensor in tensors)
    counted = [_counts(tensor) for tensor in tensors]
    few = all(len(counts) <= _LARGEST_TABLE for counts in counted)
    entropy = sum(map(_entropy_bytes, counted)) if few else None
    start = time.process_time()
    made = pack(content, Format.ONNX)
    packed_s = time.process_time() - start
    start = time.process_time()
    again = unpack(made.content, len(content))
    unpacked_s = time.process_time() - start
    if again != content:
        raise BenchError(f"packing: {name} did not come back as it was.")
    own = sum(tensor.size_bytes for tensor in made.tensors)
    rows: list[tuple[Cell, ...]] = [
        (name, OURS, len(made.content), weights / own, _over(own, entropy), packed_s, len(content) / unpacked_s / 1e6)
    ]
    for by, (encode, decode) in _whole_file().items():
        start = time.process_time()
        packed = encode(content)
        packed_s = time.process_time() - start
        start = time.process_time()
        decode(packed)
        unpacked_s = max(time.process_time() - start, 1e-6)
        size = len(packed)
        rows.append((name, by, size, weights / size, _over(size, entropy), packed_s, len(content) / unpacked_s / 1e6))
    for by, cost in (("Huffman", _huffman_bytes), ("constriction ANS", _ans_bytes)):
        if few:
            least = sum(map(cost, tensors))
            rows.append((name, by, least, weights / least, _over(least, entropy), None, None))
    return made, rows


def _over(size_bytes: float, entropy_bytes: float | None) -> float | None:
    return size_bytes / entropy_bytes if entropy_bytes else None


def account(name: str, made: Packed) -> list[tuple[Cell, ...]]:
    """Where the bytes of a container go."""
    rows: list[tuple[Cell, ...]] = [
        (name, "header", None, None, made.header_bytes),
        (name, "graph", None, None, round(made.skeleton_bytes)),
    ]
    return rows + [(name, each.name, each.symbols, each.coder, round(each.size_bytes)) for each in made.tensors]


def _whole_file() -> dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]]:
    import zstandard

    return {
        "zstd -22": (zstandard.ZstdCompressor(level=22).compress, zstandard.ZstdDecompressor().decompress),
        "xz -9e": (lambda content: lzma.compress(content, preset=9 | lzma.PRESET_EXTREME), lzma.decompress),
        "zlib -9": (lambda content: zlib.compress(content, 9), zlib.decompress),
    }


def _counts(tensor: np.ndarray) -> np.ndarray:
    counts: np.ndarray = np.unique(tensor.view(f"<u{tensor.itemsize}"), return_counts=True)[1]
    return counts


def _entropy_bytes(counts: np.ndarray) -> float:
    shares = counts / counts.sum()
    return float(-(counts * np.log2(shares)).sum() / 8)


def _huffman_bytes(tensor: np.ndarray) -> int:
    """What Huffman's code takes, with its table."""
    counts = _counts(tensor)
    order = count()
    heap = [(int(each), next(order)) for each in counts]
    heapq.heapify(heap)
    bits = int(counts.sum()) if len(counts) == 1 else 0
    while len(heap) > 1:
        together = heapq.heappop(heap)[0] + heapq.heappop(heap)[0]
        bits += together  # every symbol below takes one bit more
        heapq.heappush(heap, (together, next(order)))
    return min(-(-bits // 8) + tensor.itemsize * len(counts), tensor.nbytes)


def _ans_bytes(tensor: np.ndarray) -> int:
    """What a range coder over the measured frequencies takes, with its table."""
    import constriction

    values, symbols = np.unique(tensor.view(f"<u{tensor.itemsize}"), return_inverse=True)
    if len(values) == 1:
        return tensor.itemsize
    counts = np.bincount(symbols)
    model = constriction.stream.model.Categorical((counts / counts.sum()).astype(np.float32), perfect=False)
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(symbols.astype(np.int32), model)
    return min(4 * len(coder.get_compressed()) + tensor.itemsize * len(values), tensor.nbytes)


def _files() -> Iterator[tuple[str, bytes]]:
    from tools.bench import digits_nets

    nets = {
        "digits MLP": digits_nets.Mlp,
        "digits CNN": digits_nets.Cnn,
        "digits GRU": digits_nets.Gru,
        "digits Transformer": digits_nets.Transformer,
    }
    for name, model in nets.items():
        subject = subjects.digits_subject(name, model)
        yield f"{name}, dense", exported(subject, subject.net, Precision.FP32)
        yield f"{name}, int8", exported(subject, subject.net, Precision.INT8)
        yield f"{name}, pruned and clustered", exported(subject, deep_compressed(subject), Precision.FP32)
    chance = np.random.default_rng(0)
    for mib in MIB:
        for kind in ("sparse", "clustered", "both", "int8", "dense"):
            yield f"{kind}, {mib} MiB", synthetic(kind, mib << 20, chance)


def deep_compressed(subject: subjects.Subject) -> nn.Module:
    """Pruned, fine-tuned, clustered and fine-tuned again.

    Batch norms are folded first, for their scales would tell the clusters of each channel apart again.
    """
    steps: list[tuple[str, dict[str, Any]]] = [
        ("prune-weights", {"sparsity": SPARSITY}),
        ("fine-tune", {"epochs": 20, "learning_rate": 1e-3}),
        ("share-weights", {"clusters": CLUSTERS, "biases": True, "bias_clusters": BIAS_CLUSTERS}),
        ("fine-tune", {"epochs": 10, "learning_rate": 3e-4}),
    ]
    if any("BatchNorm" in type(module).__name__ for module in subject.net.modules()):
        steps.insert(0, ("fold-batch-norm", {}))
    kinds: Any = PASSES
    return apply_passes(copy.deepcopy(subject.net), [kinds[kind](**fields) for kind, fields in steps], subject.task)


def exported(subject: subjects.Subject, net: nn.Module, precision: Precision) -> bytes:
    """The net's ONNX file."""
    with tempfile.TemporaryDirectory(prefix="edgedeploy-bench-") as folder:
        return export.export(net, Target(Format.ONNX, precision), subject.task, Path(folder)).path.read_bytes()


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
