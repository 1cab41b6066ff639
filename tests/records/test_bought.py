"""What a pass buys is read from its account, and noise is no gain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgedeploy.records import EXPORT, SOURCE, Gain, Quality, StepAccount, gain, gain_of_passes, why_unknown

BEFORE = StepAccount(SOURCE, 2_500, 2_500, 100_000, 10_000, file_bytes=10_000, packed_bytes=9_000)


@pytest.mark.parametrize(
    ("file", "packed", "macs", "bought"),
    [
        (6_000, 5_500, 50_000, Gain.FILE_AND_ARITHMETIC),
        (6_000, 5_500, 100_000, Gain.FILE),
        (6_000, 9_500, 120_000, Gain.FILE),
        (10_000, 9_000, 50_000, Gain.ARITHMETIC),
        (10_000, 2_000, 100_000, Gain.PACKED),
        (10_050, 2_000, 100_500, Gain.PACKED),
        (10_000, 9_000, 100_000, Gain.ACCURACY),
        (9_930, 8_950, 99_100, Gain.ACCURACY),  # a share of a per cent is no gain,
        (10_070, 9_060, 100_900, Gain.ACCURACY),  # and no loss
        (10_000, 9_200, 100_000, Gain.NOTHING),
        (10_400, 9_000, 100_000, Gain.NOTHING),
        (10_000, 9_000, 130_000, Gain.NOTHING),
    ],
)
def test_what_got_smaller_is_what_was_bought(file: int, packed: int, macs: int, bought: Gain) -> None:
    after = replace(BEFORE, step="any", file_bytes=file, packed_bytes=packed, macs=macs)
    assert gain(BEFORE, after) is bought


def test_a_pass_that_leaves_the_metric_too_as_it_was_buys_nothing() -> None:
    quality = Quality("accuracy", "selection", 0.9, 0.88, 0.92, 300)
    before = replace(BEFORE, quality=quality)
    assert gain(before, replace(before, step="reorder-channels", packed_bytes=8_950)) is Gain.NOTHING
    assert gain(before, replace(before, step="fine-tune", quality=replace(quality, value=0.91))) is Gain.ACCURACY
    assert gain(before, replace(before, step="reorder-channels", packed_bytes=8_000)) is Gain.PACKED


@pytest.mark.parametrize("name", ["file_bytes", "packed_bytes", "macs"])
def test_nothing_is_said_of_what_is_not_known(name: str) -> None:
    smaller = replace(BEFORE, step="any", file_bytes=1, packed_bytes=1, macs=1)
    unknown: Any = {name: None}
    assert gain(BEFORE, replace(smaller, **unknown)) is None
    assert gain(replace(BEFORE, **unknown), smaller) is None


def test_why_it_is_not_known_is_told() -> None:
    no_file = replace(BEFORE, step="quantise-aware", file_bytes=None, packed_bytes=None)
    assert why_unknown((BEFORE, no_file)) == "quantise-aware leaves a net of which no float32 file can be made"
    source = replace(BEFORE, file_bytes=None)
    assert (
        why_unknown((source, replace(BEFORE, step="a"))) == "source leaves a net of which no float32 file can be made"
    )
    assert why_unknown((BEFORE, replace(BEFORE, step="a", macs=None))) == "the net's MACs could not be counted"


def test_passes_are_judged_without_the_export_that_follows() -> None:
    pruned = replace(BEFORE, step="prune-weights", packed_bytes=4_000)
    tuned = replace(pruned, step="fine-tune", packed_bytes=4_020)
    int8 = replace(tuned, step=EXPORT, file_bytes=2_600, packed_bytes=1_500)
    assert gain_of_passes((BEFORE, pruned, tuned, int8)) is Gain.PACKED
    assert gain(pruned, tuned) is Gain.ACCURACY
    assert gain_of_passes((BEFORE, int8)) is None
    assert gain_of_passes(()) is None
