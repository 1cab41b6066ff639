"""Says in a word what passes buy, so that storage alone is never taken for speed."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from edgedeploy.records.built import EXPORT, StepAccount

# Two trainings of one net pack to sizes that differ by less than this share.
NOISE = 0.01


class Gain(StrEnum):
    """What got smaller.

    PACKED leaves file and arithmetic as they were and shows in the archive and on the wire alone. ACCURACY leaves all
    of them as they were, so that only the metric can have gained. With NOTHING the metric too stayed what it was, as
    when a pass prepares for another, or something grew.
    """

    FILE_AND_ARITHMETIC = "file and arithmetic"
    FILE = "file"
    ARITHMETIC = "arithmetic"
    PACKED = "packed only"
    ACCURACY = "accuracy only"
    NOTHING = "nothing"


def gain(before: StepAccount, after: StepAccount) -> Gain | None:
    """What lies between two steps, changes of up to `NOISE` left out; None where file, packed or MACs are not known."""
    changes = [(getattr(before, name), getattr(after, name)) for name in ("file_bytes", "macs", "packed_bytes")]
    if any(old is None or new is None for old, new in changes):
        return None
    file, arithmetic, packed = (new < (1 - NOISE) * old for old, new in changes)
    if file:
        return Gain.FILE_AND_ARITHMETIC if arithmetic else Gain.FILE
    if arithmetic:
        return Gain.ARITHMETIC
    if packed:
        return Gain.PACKED
    metric_stayed = before.quality is not None and before.quality == after.quality
    if metric_stayed or any(new > (1 + NOISE) * old for old, new in changes):
        return Gain.NOTHING
    return Gain.ACCURACY


def why_unknown(steps: Sequence[StepAccount]) -> str:
    """What kept `gain_of_passes` from an answer where there are passes, in half a sentence."""
    passed = [step for step in steps if step.step != EXPORT]
    for step in passed[-1:] + passed[:1]:
        if step.file_bytes is None or step.packed_bytes is None:
            return f"{step.step} leaves a net of which no float32 file can be made"
    return "the net's MACs could not be counted"


def gain_of_passes(steps: Sequence[StepAccount]) -> Gain | None:
    """What the passes of an account buy together, before its file is exported; None where there are none."""
    passed = [step for step in steps if step.step != EXPORT]
    return gain(passed[0], passed[-1]) if len(passed) > 1 else None
