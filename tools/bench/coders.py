"""Coders that make an exported file small, ours beside the field's, and what each makes of one file."""

from __future__ import annotations

import heapq
import lzma
import tempfile
import time
import zlib
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgedeploy import export
from edgedeploy.on_device.unpacking import unpack
from edgedeploy.packing import Packed, onnx_constants, pack
from edgedeploy.records import Format, Precision, Target
from tools.bench.rows import OURS, BenchError
from tools.bench.subjects import Subject
from tools.bench.tables import Cell

if TYPE_CHECKING:
    from torch import nn

_LARGEST_TABLE = 1 << 12


def need_coders() -> None:
    """Raise BenchError where a peer is missing."""
    try:
        import constriction  # noqa: F401
        import zstandard  # noqa: F401
    except ImportError as error:
        raise BenchError(f"packing: needs {error.name}; install the dev extra.") from error


def exported(subject: Subject, net: nn.Module, precision: Precision) -> bytes:
    """The net's ONNX file."""
    with tempfile.TemporaryDirectory(prefix="edgedeploy-bench-") as folder:
        return export.export(net, Target(Format.ONNX, precision), subject.task, Path(folder)).path.read_bytes()


def weights_bytes(content: bytes) -> int:
    """What the constants of an ONNX file take."""
    return sum(each.end - each.start for each in onnx_constants.constants(content))


def measured(name: str, content: bytes, dense_bytes: int | None = None) -> tuple[Packed, list[tuple[Cell, ...]]]:
    """One row for each contender, ours checked to give the file back.

    Ratios are over `dense_bytes`, by default what the file's own constants take. Raises BenchError.
    """
    tensors = [
        np.frombuffer(content[each.start : each.end], each.element.value) for each in onnx_constants.constants(content)
    ]
    weights = sum(tensor.nbytes for tensor in tensors) if dense_bytes is None else dense_bytes
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
