"""Says what is wrong with a file that a user wrote: file, key, what was found and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ValidationError


def first_mistake(path: Path, prefix: str, error: ValidationError, model: type[BaseModel] | None) -> str:
    """The one sentence for what pydantic refused; `prefix` is the key of the table that it looked at."""
    mistakes = error.errors(include_url=False)
    # A misspelt key shows twice, as one unknown and one missing: the unknown one tells more.
    first = min(mistakes, key=lambda mistake: mistake["type"] != "extra_forbidden")
    location = first["loc"]
    key = prefix + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    key = key.lstrip(".")
    if first["type"] == "extra_forbidden":
        return unknown_key(path, key, str(location[-1]), _keys_at(model, location[:-1]))
    if first["type"] == "missing":
        return f"{path}: {key}: missing; add it."
    expected = first["msg"][0].lower() + first["msg"][1:]
    if first["type"] == "value_error":
        expected = str(first["ctx"]["error"])
    found = repr(first["input"])
    return f"{path}: {key}: found {found if len(found) < 80 else found[:77] + '...'}: {expected}."


def unknown_key(path: Path, key: str, name: str, known: Iterable[str]) -> str:
    """The sentence for the key `name` that no table has."""
    known = sorted(known)
    return f"{path}: {key}: unknown key{did_you_mean(name, known)}; expected one of {', '.join(known)}."


def _keys_at(model: type[BaseModel] | None, location: tuple[int | str, ...]) -> list[str]:
    """The keys that the table at `location` may have."""
    for part in location:
        if model is None or isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        candidates = (annotation, *getattr(annotation, "__args__", ()))
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
    return list(model.model_fields) if model else []


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint at the known word closest to this one, or nothing where none is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""


def first_repeated(names: Iterable[str]) -> str | None:
    """The first of these names that came before, or None."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
