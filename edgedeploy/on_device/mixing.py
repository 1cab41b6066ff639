"""Codes bits by what came before them, in whole numbers, so that every machine decodes what any machine encoded."""

from __future__ import annotations

from array import array
from operator import mul
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_ONE = 1 << 16  # a probability of 1
_REACH = 2047  # the largest log-odds, in units of 1/256
_MOST_SEEN = 1023
_UNSEEN = 1 << 31
_INHERITED = 4  # how much the start of a context weighs against what is then seen in it
_TEXT_SLOWNESS, _TEXT_TOTAL = 14, 2 << 16
_LEVEL_SLOWNESS = 17  # trained weights are nearly independent of each other
_REPEATS = 4
_RATES = [(1 << 16) * 3 // (3 * seen + 4) for seen in range(_MOST_SEEN + 1)]


def _logistic() -> tuple[list[int], list[int]]:
    """Probabilities in 1/65536 by log-odds, and log-odds by probability in 1/4096: from integers alone, hence exact."""
    one = 1 << 96
    step, term = 0, one  # e ** (1 / 256), by its series
    for number in range(1, 24):
        step += term
        term //= 256 * number
    powers = [one]
    for _ in range(_REACH):
        powers.append(powers[-1] * step // one)
    upper = [_ONE * power // (power + one) for power in powers]
    squash = [_ONE - 1 - high for high in upper[:0:-1]] + upper
    squash = [min(max(probability, 1), _ONE - 1) for probability in squash]
    stretch, place = [], 0
    for probability in range(8, _ONE, 16):
        while place < 2 * _REACH and squash[place + 1] <= probability:
            place += 1
        stretch.append(place - _REACH)
    return squash, stretch


_SQUASH, _STRETCH = _logistic()


class Decoder:
    """Reads bits of given probabilities; beyond the end of `content` it reads zeros."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._place = 4
        self._low, self._high = 0, 0xFFFFFFFF
        self._code = int.from_bytes(content[:4].ljust(4, b"\0"), "big")

    def bit(self, probability: int, _bit: int) -> int:
        """Read a bit that is 1 with this probability, in 1/65536."""
        low, high = self._low, self._high
        span = high - low
        middle = low + (span >> 16) * probability + ((span & 0xFFFF) * probability >> 16)
        bit = 1 if self._code <= middle else 0
        if bit:
            high = middle
        else:
            low = middle + 1
        while not (low ^ high) & 0xFF000000:
            low = low << 8 & 0xFFFFFFFF
            high = high << 8 & 0xFFFFFFFF | 0xFF
            byte = self._content[self._place] if self._place < len(self._content) else 0
            self._code = self._code << 8 & 0xFFFFFFFF | byte
            self._place += 1
        self._low, self._high = low, high
        return bit


class Mixer:
    """Adaptive probabilities by context, mixed by weights that learn which contexts tell most.

    Each of `slots` holds the probability of a 1 in one context, in 22 bits, and how often it was seen, in 10; 0 is one
    that was never seen. Each of `sets` holds one weight an input; they learn the faster, the smaller `slowness` is.
    After Mahoney, Adaptive Weighing of Context Models for Lossless Data Compression (Florida Tech, CS-2005-16).
    """

    def __init__(
        self, coder: Decoder, slots: int, inputs: int, sets: int, slowness: int, total: int, inherited: int = 0
    ) -> None:
        self._bit = coder.bit
        self._states = array("I", [0]) * slots
        self._weights = [[total // inputs] * inputs for _ in range(sets)]
        self._slowness = slowness
        self._inherited = inherited

    def code(self, slots: Sequence[int], chosen: int, bit: int = 0) -> int:
        """Code a bit in as many contexts as there are inputs; a decoder ignores `bit` and returns the one it read.

        With `inherited`, a context that was never seen begins where the first of `slots` is, as if seen that often.
        """
        states, stretch, slowness = self._states, _STRETCH, self._slowness
        begin, inherited = _UNSEEN, self._inherited
        if inherited:
            parent = states[slots[0]] or begin
            begin = parent & ~1023 | min(parent & 1023, inherited)
        found = [states[slot] or begin for slot in slots]
        inputs = [stretch[state >> 20] for state in found]
        weights = self._weights[chosen]
        odds = sum(map(mul, inputs, weights)) >> 16
        probability = _SQUASH[(odds if odds < _REACH else _REACH) + _REACH if odds > -_REACH else 0]
        bit = self._bit(probability, bit)
        error = (bit << 16) - probability
        self._weights[chosen] = [weight + (error * value >> slowness) for weight, value in zip(weights, inputs)]
        toward, rates, most = 4194303 if bit else 0, _RATES, _MOST_SEEN
        for slot, state in zip(slots, found):
            seen = state & 1023
            state += (toward - (state >> 10)) * rates[seen] >> 16 << 10
            states[slot] = state + 1 if seen < most else state
        return bit


_ORDERS = 6
_HASH = 0x9E3779B1


def code_bytes(coder: Decoder, content: bytearray) -> None:
    """Code bytes by those before them; a decoder fills `content`, whose length it knows."""
    bits = min(max(len(content).bit_length() + 2, 6), 13)
    blocks, shift, mask = 16 << bits, 32 - bits, (1 << bits) - 1  # for each half of a byte in each context, 16 nodes
    mixer = Mixer(coder, 256 + _ORDERS * blocks, _ORDERS + 1, 256, _TEXT_SLOWNESS, _TEXT_TOTAL)
    last = 0  # the eight bytes before
    for place in range(len(content)):
        contexts = (
            last & 0xFF,
            last & 0xFFFF,
            last & 0xFFFFFF,
            last & 0xFFFFFFFF,
            last >> 22 & 0x3FC | place & 3,
            last & 0xFFFFFFFFFFFF,
        )
        value, node = content[place], 1
        for half in (4, 0):
            bases = [
                256 + blocks * order + ((context * 0x2F0B4C47 + node * 0x85EBCA6B + order) * _HASH >> shift & mask) * 16
                for order, context in enumerate(contexts)
            ]
            inner = 1
            for turn in (3, 2, 1, 0):
                slots = [node]
                slots += [base + inner for base in bases]
                bit = mixer.code(slots, node, value >> half + turn & 1)
                node = node << 1 | bit
                inner = inner << 1 | bit
        content[place] = node & 0xFF
        last = last << 8 & 0xFFFFFFFFFFFFFFFF | content[place]


def code_levels(coder: Decoder, levels: list[int], dims: Sequence[int], below: int, above: int) -> None:
    """Code a tensor whose entries are 0 or the rank of a level on either side, from -`below` to `above`.

    A decoder fills `levels`, whose length is the product of `dims`. What an entry is likely to be, its place along each
    axis tells, and its neighbours: whether it is 0 first, then its sign, then its rank from the highest bit down.
    """
    strides = [1]
    for size in dims[:0:-1]:
        strides.insert(0, strides[0] * size)
    # An axis along which every place comes but once or twice tells nothing.
    axes = [(stride, size) for stride, size in zip(strides, dims) if len(levels) >= _REPEATS * size]
    near = sorted({1, *strides})
    firsts, slots = [], 1
    for _, size in axes:
        firsts.append(slots)
        slots += size
    crowd = slots + len(near) + 1
    zero = Mixer(coder, crowd + 32, len(axes) + 3, 1, _LEVEL_SLOWNESS, _ONE, _INHERITED)
    sign = Mixer(coder, slots + 3 ** len(near), len(axes) + 2, 1, _LEVEL_SLOWNESS, _ONE, _INHERITED)
    rungs = (max(below, above, 1) - 1).bit_length()
    width = 1 << rungs
    rank = Mixer(coder, width * (slots + 2), len(axes) + 2, width, _LEVEL_SLOWNESS, _ONE, _INHERITED)
    signs = [0] * (near[-1] + len(levels))  # 1 above, 2 below; padded so that every neighbour is there
    running = 0
    for place, value in enumerate(levels):
        along = [first + place // stride % size for first, (stride, size) in zip(firsts, axes)]
        here = near[-1] + place
        around = [signs[here - offset] for offset in near]
        there = len(near) - around.count(0)
        some = zero.code([0, slots + there, crowd + (running >> 11), *along], 0, 1 if value else 0)
        running += ((some << 16) - running) >> 6
        if not some:
            levels[place] = 0
            continue
        negative = 1 if below else 0
        if below and above:
            pattern = 0
            for neighbour in around:
                pattern = 3 * pattern + neighbour
            negative = sign.code([0, slots + pattern, *along], 0, 1 if value < 0 else 0)
        signs[here] = 1 + negative
        code, node = abs(value) - 1, 1
        for turn in range(rungs - 1, -1, -1):
            contexts = [node, width * (1 + negative) + node]
            contexts += [width * (one + 2) + node for one in along]
            node = node << 1 | rank.code(contexts, node, code >> turn & 1)
        code = node - width + 1
        levels[place] = -code if negative else code
