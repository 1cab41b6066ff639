"""Files to pack: small ones of both formats with every kind of weights, made without a converter."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def weights(kind: str, shape: tuple[int, ...], seed: int = 0) -> Array:
    """Weights as compression leaves them: dense, sparse, clustered, both, grid, int8."""
    chance = np.random.default_rng(seed)
    dense = chance.normal(0, 0.1, shape).astype(np.float32)
    if kind == "dense":
        return dense
    if kind == "int8":
        return np.clip(np.rint(dense * 250), -127, 127).astype(np.int8)
    if kind == "grid":
        return (np.rint(dense * 40) * np.float32(0.0123)).astype(np.float32) + np.float32(0)
    kept = np.abs(dense) > np.quantile(np.abs(dense), 0.9)
    if kind == "sparse":
        return np.where(kept, dense, np.float32(0))
    centroids = np.sort(chance.normal(0, 0.2, 15)).astype(np.float32)
    clustered = centroids[np.clip(np.rint(dense * 20) + 7, 0, 14).astype(int)]
    return clustered if kind == "clustered" else np.where(kept, clustered, np.float32(0))


def onnx_file(arrays: dict[str, Array]) -> bytes:
    """A model that holds these initialisers, by the wire format alone."""
    graph = b"".join(_field(5, _tensor(name, array)) for name, array in arrays.items())
    return _field(2, b"tests") + _field(7, _field(2, b"graph") + graph)


def _tensor(name: str, array: Array) -> bytes:
    kind = {"float32": 1, "int8": 3, "int64": 7, "float16": 10, "uint8": 2, "int32": 6, "float64": 11}[str(array.dtype)]
    dims = b"".join(b"\x08" + varint(size) for size in array.shape)
    return dims + b"\x10" + varint(kind) + _field(8, name.encode()) + _field(9, array.tobytes())


def _field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes([*written, value])
