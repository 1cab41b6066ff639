"""What a pass's settings may be, told in the same words whichever pass is asked for.

A setting that is None by default, and is None, is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

_MOST_SEEDS = 2**63  # what torch's generators take


def share(settings: Any, *names: str) -> None:
    """Raise ValueError unless each of these settings lies between 0 and 1."""
    for name, value in _given(settings, names):
        if not 0 < value < 1:
            raise ValueError(f"{name} is {value}; it must lie between 0 and 1, both excluded")


def above_0(settings: Any, *names: str) -> None:
    """Raise ValueError unless each of these settings is above 0, and finite."""
    for name, value in _given(settings, names):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} is {value}; it must be above 0")


def not_negative(settings: Any, *names: str) -> None:
    """Raise ValueError unless each of these settings is 0 or above, and finite."""
    for name, value in _given(settings, names):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} is {value}; it must be 0 or above")


def at_least(settings: Any, **least: int) -> None:
    """Raise ValueError unless each setting is so large."""
    for name, value in _given(settings, least):
        if value < least[name]:
            raise ValueError(f"{name} is {value}; it must be at least {least[name]}")


def one_of(settings: Any, **known: Sequence[str]) -> None:
    """Raise ValueError unless each setting is one of the words it may be."""
    for name, value in _given(settings, known):
        if value not in known[name]:
            raise ValueError(f"{name} is {value!r}; it must be {' or '.join(known[name])}")


def seed(settings: Any) -> None:
    """Raise ValueError unless `seed` is one that a generator takes."""
    if not 0 <= settings.seed < _MOST_SEEDS:
        raise ValueError(f"seed is {settings.seed}; it must be 0 or above")


def _given(settings: Any, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    for name in names:
        value = getattr(settings, name)
        if value is not None or defaults[name] is not None:
            yield name, value
