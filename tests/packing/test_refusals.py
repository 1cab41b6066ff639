"""A container that is not what it says is refused in a sentence, before anything large is allocated."""

from __future__ import annotations

import random
import tracemalloc
import zlib

import numpy as np
import pytest

from edgedeploy.on_device.unpacking import HEADER_BYTES, MAGIC, Refused, unpack
from edgedeploy.packing import pack
from edgedeploy.packing.pieces import varint
from edgedeploy.records import Format
from tests.packing.files import onnx_file, weights

FILE = onnx_file(
    {"a": weights("both", (12, 10)), "b": weights("dense", (40,)), "c": weights("int8", (30, 9)), "d": np.arange(9)}
)
SMALL = pack(FILE, Format.ONNX).content
LARGE_FILE = onnx_file(
    {"a": weights("sparse", (200, 300)), "b": weights("int8", (300, 200)), "c": weights("both", (90, 99))}
)
LARGE = pack(LARGE_FILE, Format.ONNX, max_decisions=20_000).content
CHECKED = len(MAGIC) + 4


def refusal(container: bytes, max_size_bytes: int = 1 << 20) -> str:
    with pytest.raises(Refused) as caught:
        unpack(container, max_size_bytes)
    return str(caught.value)


def signed(container: bytes) -> bytes:
    """With a checksum that is right, as whoever means harm would send it."""
    return MAGIC + zlib.crc32(container[CHECKED:]).to_bytes(4, "little") + container[CHECKED:]


def test_every_flipped_byte_is_noticed() -> None:
    for place in range(len(SMALL)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(SMALL)
            damaged[place] ^= flip
            assert refusal(bytes(damaged))


def test_flipped_bytes_of_a_large_container_are_noticed() -> None:
    places = [*range(HEADER_BYTES + 20), *random.Random(0).sample(range(len(LARGE)), 300)]
    for place in places:
        damaged = bytearray(LARGE)
        damaged[place] ^= 0x10
        assert refusal(bytes(damaged))


def test_every_cut_is_noticed() -> None:
    for length in range(len(SMALL)):
        assert refusal(SMALL[:length])


@pytest.mark.parametrize("tail", [b"\0", b"more", SMALL])
def test_what_is_appended_is_noticed(tail: bytes) -> None:
    assert refusal(SMALL + tail) == "its checksum is wrong: it was damaged or cut short"
    assert refusal(signed(SMALL + tail)) == "it holds more than the file needs"


def test_a_file_that_would_be_too_large_is_refused_before_it_is_made() -> None:
    assert unpack(SMALL, len(FILE)) == FILE
    told = f"it says to hold {len(FILE)} bytes, and {len(FILE) - 1} are the most here"
    assert refusal(SMALL, len(FILE) - 1) == told


def test_a_hostile_size_allocates_nothing() -> None:
    rest = SMALL[HEADER_BYTES + len(varint(len(FILE))) :]
    tracemalloc.start()
    told = refusal(signed(SMALL[:HEADER_BYTES] + varint(1 << 60) + rest), 1 << 30)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert told == f"it says to hold {1 << 60} bytes, and {1 << 30} are the most here"
    assert peak_bytes < 1 << 20


def test_damage_with_a_right_checksum_is_refused_as_well() -> None:
    chance = random.Random(1)
    for container in (SMALL, LARGE):
        for _ in range(40):
            damaged = bytearray(container)
            for _ in range(chance.randint(1, 3)):
                damaged[chance.randrange(HEADER_BYTES, len(container))] = chance.randrange(256)
            if bytes(damaged) != container:
                assert refusal(signed(bytes(damaged)))


def test_a_right_container_of_another_file_is_refused() -> None:
    other = bytes(32) + SMALL[HEADER_BYTES:]
    assert refusal(signed(SMALL[:CHECKED] + other)) == "the file it holds has another SHA-256 than it says"


@pytest.mark.parametrize("content", [b"", b"EDPK", b"PK\x03\x04" * 30, b"EDPK\x02" + bytes(100)])
def test_what_is_no_container_is_refused(content: bytes) -> None:
    assert refusal(content) == "it is no packed file of this version"
