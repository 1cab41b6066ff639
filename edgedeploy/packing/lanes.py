"""Writes bytes as interleaved rANS, which the board's `on_device/lanes.py` decodes."""

from __future__ import annotations

import numpy as np

from edgedeploy.on_device.lanes import MAX_LANES, PRECISION

# What a lane costs: of its four bytes of state, about one carries something.
_LANE_BYTES = 3
_LANES_SHARE = 0.004
_MIN_LANES = 4
# Large enough for the rarest symbol to have four bits, and small enough for a byte.
_SCALE = 1 << 24


def encode(content: np.ndarray, frequencies: np.ndarray, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """The final states (uint32, one a lane) and the words (uint16) of uint8 symbols, whose frequencies are above 0."""
    starts = np.cumsum(frequencies) - frequencies
    steps = -(-len(content) // lanes)
    filler = int(frequencies.argmax())
    symbols = np.full((steps, lanes), filler, np.uint8)
    symbols.reshape(-1)[: len(content)] = content
    state = np.full(lanes, 1 << 16, np.uint64)
    factors, offsets = frequencies.astype(np.uint64), starts.astype(np.uint64)
    written: list[np.ndarray] = []
    for row in symbols[::-1]:
        factor = factors[row]
        full = state >= factor << np.uint64(32 - PRECISION)
        written.append(state[full].astype(np.uint16))
        state[full] >>= np.uint64(16)
        quotient, rest = np.divmod(state, factor)
        state = (quotient << np.uint64(PRECISION)) + rest + offsets[row]
    words = np.concatenate(written[::-1]) if written else np.zeros(0, np.uint16)
    return state.astype(np.uint32), words


def table_of(counts: np.ndarray) -> np.ndarray:
    """256 bytes that stand for the frequencies of symbols as the board reads them."""
    scaled = np.where(counts > 0, np.maximum(counts * (_SCALE / counts.sum()), 8), 8)
    exponents = np.floor(np.log2(scaled)).astype(np.int64) - 3
    mantissas = np.rint(scaled / np.exp2(exponents)).astype(np.int64)
    exponents, mantissas = np.where(mantissas > 15, exponents + 1, exponents), np.where(mantissas > 15, 8, mantissas)
    # 0 says that there is none, so that the smallest frequency is one step above it.
    return np.where(counts > 0, np.maximum(exponents * 8 + mantissas - 8, 1), 0).astype(np.uint8)


def cost_bytes(counts: np.ndarray, frequencies: np.ndarray) -> float:
    """What the symbols take, without states and table."""
    there = counts > 0
    return float(-(counts[there] * np.log2(frequencies[there] / (1 << PRECISION))).sum() / 8)


def lanes_for(size_bytes: float) -> int:
    """As many lanes as a payload of this size carries without noticing: a power of 2."""
    most = int(size_bytes * _LANES_SHARE / _LANE_BYTES)
    return min(max(1 << max(most.bit_length() - 1, 0), _MIN_LANES), MAX_LANES)
