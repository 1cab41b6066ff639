"""A recipe's tables become passes, those that they wrap included; every mistake names its key."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_type_hints

from pydantic import TypeAdapter, ValidationError

from edgedeploy.errors import PlanError
from edgedeploy.plan.mistakes import did_you_mean, first_mistake, unknown_key
from edgedeploy.records import Pass


def parse_pass(path: Path, key: str, table: Mapping[str, Any], passes: Mapping[str, type[Pass]]) -> Pass:
    """The pass that the table at `key` of the file asks for. Raises PlanError.

    A field of a pass that is typed as Pass wraps another one: its key is the field's name without the underscore that
    keeps it from being a word of Python, and its value a table like this one. A pass that settles a setting of what it
    wraps has `complete(inner, outer, cls)`, which fills it in, or raises ValueError led by the key.
    """
    settings = dict(table)
    cls = _class_of(path, key, settings.pop("kind", None), passes)
    fields = {field.name.rstrip("_"): field for field in dataclasses.fields(cls) if field.init}
    for name in settings:
        if name not in fields:
            raise PlanError(unknown_key(path, f"{key}.{name}", name, fields))
    hints = get_type_hints(cls)
    values = {fields[name].name: value for name, value in settings.items()}
    for name, field in fields.items():
        if hints[field.name] is Pass:
            values[field.name] = _parse_inner(path, key, name, settings, cls, passes)
    try:
        return cast("Pass", TypeAdapter(cls).validate_python(values))
    except ValidationError as error:
        raise PlanError(first_mistake(path, key, error, None)) from error


def _class_of(path: Path, key: str, kind: Any, passes: Mapping[str, type[Pass]]) -> type[Any]:
    if not isinstance(kind, str) or kind not in passes:
        found = "missing" if kind is None else f"found {kind!r}{did_you_mean(str(kind), passes)}"
        raise PlanError(f"{path}: {key}.kind: {found}; expected one of {', '.join(sorted(passes))}.")
    return cast("type[Any]", passes[kind])


def _parse_inner(
    path: Path, key: str, name: str, settings: Mapping[str, Any], outer: Any, passes: Mapping[str, type[Pass]]
) -> Pass:
    if name not in settings:
        raise PlanError(f"{path}: {key}.{name}: missing; add the table of a pass.")
    inner = settings[name]
    if not isinstance(inner, Mapping):
        raise PlanError(
            f'{path}: {key}.{name}: found {inner!r}: expected the table of a pass, {{ kind = "...", ... }}.'
        )
    cls = _class_of(path, f"{key}.{name}", inner.get("kind"), passes)
    if (complete := getattr(outer, "complete", None)) is not None:
        try:
            inner = complete(inner, settings, cls)
        except ValueError as error:
            raise PlanError(f"{path}: {key}.{error}.") from error
    return parse_pass(path, f"{key}.{name}", inner, passes)
