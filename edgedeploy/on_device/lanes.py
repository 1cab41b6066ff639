"""Decodes bytes that many interleaved rANS coders wrote, so that numpy steps through all of them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .failures import Refused

if TYPE_CHECKING:
    import numpy as np

    Bytes = np.ndarray[Any, Any]

# Frequencies add up to 2 ** PRECISION; a state is kept from 2 ** 16 up to 2 ** 32 by words of 16 bits.
PRECISION = 14
MAX_LANES = 1 << 13
MAX_EXPONENT = 24


def frequencies_of(table: Bytes) -> Bytes:
    """Return 256 frequencies that add up, from one byte each: 0, or a number of four significant bits. Raises Refused.

    Four bits lose less than a thousandth of a bit a symbol; what rounding leaves goes to the most frequent one.
    """
    import numpy as np

    exponents, fractions = np.divmod(table.astype(np.int64), 8)
    shares = np.where(table > 0, (8 + fractions) << np.minimum(exponents, MAX_EXPONENT), 0)
    total = int(shares.sum())
    if not total:
        raise Refused("a table in it has no frequencies")
    frequencies = np.where(table > 0, np.maximum((shares << PRECISION) // total, 1), 0)
    most = int(frequencies.argmax())
    frequencies[most] += (1 << PRECISION) - int(frequencies.sum())
    if frequencies[most] < 1:
        raise Refused("the frequencies of a table in it do not add up")
    return frequencies


def decode(words: Bytes, states: Bytes, frequencies: Bytes, count: int) -> Bytes:
    """Return `count` bytes. `words` are uint16, `states` uint32, one a lane; `frequencies` are 256 that add up.

    Symbol number i is in lane i % lanes. Duda, Asymmetric numeral systems (arXiv:1311.2540). Raises Refused.
    """
    import numpy as np

    lanes = len(states)
    symbols = np.repeat(np.arange(256, dtype=np.uint8), frequencies)
    starts = np.cumsum(frequencies) - frequencies
    factors = np.repeat(frequencies, frequencies).astype(np.uint32)
    shares = (np.arange(1 << PRECISION) - np.repeat(starts, frequencies)).astype(np.uint32)
    # A step takes at most one word a lane: with as many to spare, no place is ever beyond the end.
    ahead = np.concatenate([words, np.zeros(lanes, words.dtype)]).astype(np.uint32)
    steps = -(-count // lanes)
    out = np.empty((steps, lanes), np.uint8)
    mask, shift = np.uint32((1 << PRECISION) - 1), np.uint32(PRECISION)
    least, word = np.uint32(1 << 16), np.uint32(16)
    state = states.astype(np.uint32)
    slot = np.empty(lanes, np.uint32)
    part = np.empty(lanes, np.uint32)
    place, end = 0, len(words)
    for step in range(steps):
        np.bitwise_and(state, mask, out=slot)
        symbols.take(slot, out=out[step], mode="clip")
        state >>= shift
        factors.take(slot, out=part, mode="clip")
        state *= part
        shares.take(slot, out=part, mode="clip")
        state += part
        (low,) = np.nonzero(state < least)
        if place > end:
            raise Refused("its coded bytes end too early")
        state[low] = state[low] << word | ahead[place : place + len(low)]
        place += len(low)
    if place != end or (state != least).any():
        raise Refused("its coded bytes do not come out even")
    return out.reshape(-1)[:count]
