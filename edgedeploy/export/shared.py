"""What the formats have in common: names of tensors, what is said of a file that was written and of its size."""

from __future__ import annotations

from dataclasses import dataclass

from edgedeploy.records import OperatorUse


@dataclass(frozen=True, slots=True)
class Written:
    """What is worth knowing about a file that was just written: notes for the user, and what its operators became."""

    notes: tuple[str, ...] = ()
    operators: tuple[OperatorUse, ...] = ()


def tensor_names(kind: str, count: int) -> list[str]:
    """`input` for one, `input_0`, `input_1`, ... for several."""
    return [kind] if count == 1 else [f"{kind}_{index}" for index in range(count)]


def size_note(int8_bytes: int, float_bytes: int) -> tuple[str, ...]:
    """One note where int8 saves less than a twentieth of the float file, as it does when recurrence stays in float."""
    if int8_bytes < 0.95 * float_bytes:
        return ()
    return (f"int8 saves hardly any space: {int8_bytes:,} bytes, {float_bytes:,} as fp32",)
