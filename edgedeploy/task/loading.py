"""From a task file to a checked Task, and to the digest that tells whether anything about it has changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, MutableMapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgedeploy.errors import PlanError
from edgedeploy.task.definition import Arrays, Split, Task, predict
from edgedeploy.task.source import source_net
from edgedeploy.task.splits import to_arrays, to_splits
from edgedeploy.task.user_code import UserCode

_SCHEME = 2  # raise it whenever the same task would get another digest
_LAYOUTS = ("NCHW", "NHWC")


def load_task(file: Path, weights: Path | None, source: Path | None = None) -> Task:
    """Import a task file, take its data, and run its net once on its example.

    `weights` None stands for the factory's own start; `source` is a .pt2 or .onnx file that holds the net instead of
    the factory. Raises PlanError, in one sentence that names the file and
    the user's own line, for whatever is missing, raises, or does not fit together.
    """
    return _load(file, weights, source)[0]


def task_digest(file: Path, weights: Path | None, cache: MutableMapping[str, str], source: Path | None = None) -> str:
    """The sha256 of everything that makes the task: see `_digest`; the place of its folder is not part of it.

    `cache` remembers it together with path, time and size of each file that went into it, so that it is found
    again without importing torch or running the task file as long as none of them has changed. Raises
    PlanError where `load_task` does.
    """
    given = [path.resolve() if path else None for path in (file, weights, source)]
    key = json.dumps(["task", _SCHEME, *(str(path) if path else None for path in given)])
    remembered = cache.get(key)
    if remembered is not None:
        entry = json.loads(remembered)
        if all(_stamp(Path(path)) == stamp for path, stamp in entry["watched"].items()):
            return str(entry["digest"])
    # Stamped before it is read, so that an edit meanwhile is noticed the next time.
    early = {path: _stamp(path) for path in given if path}
    task, code, source_files = _load(file, weights, source)
    files = code.local_files() | code.opened | code.listed | set(source_files)
    watched = {str(path): _stamp(path) for path in sorted(files)} | {str(p): s for p, s in early.items()}
    cache[key] = json.dumps({"digest": task.digest, "watched": watched})
    return task.digest


def _stamp(path: Path) -> list[int] | str | None:
    # The time of a folder changes with every temporary file: the names in it are what the task saw.
    try:
        if path.is_dir():
            names = "\0".join(sorted(entry.name for entry in path.iterdir()))
            return hashlib.sha256(os.fsencode(names)).hexdigest()
        status = path.stat()
    except OSError:
        return None
    return [status.st_mtime_ns, status.st_size]


def _load(file: Path, weights: Path | None, source: Path | None) -> tuple[Task, UserCode, tuple[Path, ...]]:
    if not file.is_file():
        raise PlanError(f"{file}: no such task file; correct [task] file, or write one with `edgedeploy init`")
    if weights is not None and not weights.is_file():
        raise PlanError(
            f"{weights}: no such weights file; train them with `edgedeploy train` or correct [task] weights"
        )
    if source is not None and not source.is_file():
        raise PlanError(f"{source}: no such source file; correct [task] source")
    code = UserCode(file)
    source_files: tuple[Path, ...] = ()
    with code.watched():
        module = code.load()
        wanted = ("model", "example", "data", "metric") if source is None else ("example", "data", "metric")
        functions = {name: code.guard(_function(file, module, name), name) for name in wanted}
        if source is not None and hasattr(module, "model"):
            raise PlanError(
                f"{file}: model() and [task] source = {source.name!r} both give the net; take one of them out"
            )
        example = to_arrays(file, "example()", functions["example"]())
        splits: dict[str, Any] = to_splits(file, functions["data"](), example)
        if source is None:
            factory = _checked_model(file, functions["model"], "model")
        else:
            factory, source_files = source_net(source, example)
        others = {
            name: _checked_model(file, code.guard(_function(file, module, name), name), name)
            for name in ("teacher", "student")
            if hasattr(module, name)
        }
        task = Task(
            folder=code.folder,
            name=code.folder.name,
            digest="",
            model=factory,
            weights=weights.resolve() if weights else None,
            example=example,
            **splits,
            metric=_checked_metric(file, functions["metric"]),
            metric_name=_constant(file, module, "METRIC", str, "metric"),
            loss=code.guard(_function(file, module, "loss"), "loss") if hasattr(module, "loss") else None,
            labels=_labels(file, module),
            preprocessing=_constant(file, module, "PREPROCESSING", str, ""),
            layout=_layout(file, module, example),
            source=source.resolve() if source else None,
            teacher=others.get("teacher"),
            student=others.get("student"),
        )
        with code.running("the forward pass on example()"):
            net = task.load_model()
        for name, other in others.items():
            with code.running(f"the forward pass of {name}() on example()"):
                _check_outputs(file, name, other, predict(net, example), example)
    object.__setattr__(task, "digest", _digest(task, code, source_files))
    return task, code, source_files


def _digest(task: Task, code: UserCode, source_files: tuple[Path, ...]) -> str:
    """Hash the task file, its local imports, the files it opened while loading, weights or source, and all arrays.

    A file under the task's folder goes by its place there, any other by its name alone.
    """
    files = (code.local_files() | code.opened) - {task.weights, *source_files}
    named = sorted(
        [path.relative_to(code.folder).as_posix() if path.is_relative_to(code.folder) else path.name, _sha256(path)]
        for path in files
    )
    arrays = {"example": task.example} | {
        f"{name} {part}": part_of
        for name in ("train", "calibration", "selection", "test")
        for part, part_of in _parts(getattr(task, name)).items()
    }
    question = {
        "scheme": _SCHEME,
        "files": named,
        "weights": _sha256(task.weights) if task.weights else None,
        **({"source": [_sha256(path) for path in source_files]} if source_files else {}),
        "arrays": {name: [_array_identity(array) for array in group] for name, group in arrays.items()},
    }
    return hashlib.sha256(json.dumps(question, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _parts(split: Split) -> dict[str, Arrays]:
    return {"inputs": split.inputs, "targets": (split.targets,)}


def _array_identity(array: np.ndarray) -> list[Any]:
    return [array.dtype.str, list(array.shape), hashlib.sha256(array.data).hexdigest()]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _function(file: Path, module: ModuleType, name: str) -> Callable[..., Any]:
    function = getattr(module, name, None)
    if function is None:
        raise PlanError(f"{file}: {name}() is missing; a task file defines model, example, data and metric")
    if not callable(function):
        raise PlanError(f"{file}: {name} is a {type(function).__name__}; it must be a function")
    return function  # type: ignore[no-any-return]


def _constant(file: Path, module: ModuleType, name: str, kind: type, default: Any) -> Any:
    value = getattr(module, name, default)
    if value is not default and not isinstance(value, kind):
        raise PlanError(f"{file}: {name} is a {type(value).__name__}; it must be a {kind.__name__}")
    return value


def _labels(file: Path, module: ModuleType) -> tuple[str, ...]:
    labels = getattr(module, "LABELS", ())
    if not isinstance(labels, (tuple, list)) or not all(isinstance(label, str) for label in labels):
        raise PlanError(f"{file}: LABELS must be a tuple of strings, one for each class")
    return tuple(labels)


def _layout(file: Path, module: ModuleType, example: Arrays) -> str | None:
    layout = getattr(module, "LAYOUT", None)
    if layout is None:
        return None
    if layout not in _LAYOUTS:
        raise PlanError(f"{file}: LAYOUT is {layout!r}; it must be {' or '.join(_LAYOUTS)}, or left out")
    if example[0].ndim != len(layout):
        raise PlanError(f"{file}: LAYOUT is {layout}, but example() has {example[0].ndim} axes")
    return str(layout)


def _checked_model(file: Path, factory: Callable[..., Any], name: str) -> Callable[[], Any]:
    def model() -> Any:
        from torch import nn

        net = factory()
        if not isinstance(net, nn.Module):
            raise PlanError(f"{file}: {name}() returned a {type(net).__name__}; it must return a torch.nn.Module")
        return net

    return model


def _check_outputs(file: Path, name: str, factory: Callable[[], Any], wanted: Arrays, example: Arrays) -> None:
    """A net beside that of model() must answer in the same shapes, with numbers. Raises PlanError."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = factory().eval()
    outputs = predict(net, example)
    shapes, expected = [one.shape for one in outputs], [one.shape for one in wanted]
    if shapes != expected:
        raise PlanError(f"{file}: {name}() gives outputs of shapes {shapes} on example(); the net gives {expected}")
    if not all(np.isfinite(one).all() for one in outputs):
        raise PlanError(f"{file}: {name}() gives NaN or infinity on example(); check its weights")


def _checked_metric(file: Path, metric: Callable[..., Any]) -> Callable[[Arrays, np.ndarray], np.ndarray | float]:
    def checked(outputs: Arrays, targets: np.ndarray) -> np.ndarray | float:
        given = metric(outputs, targets)
        if hasattr(given, "detach"):
            given = given.detach().cpu().numpy()
        try:
            scores = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise PlanError(f"{file}: metric() returned a {type(given).__name__}; return numbers") from error
        if scores.ndim > 1 or (scores.ndim == 1 and len(scores) != len(targets)):
            raise PlanError(
                f"{file}: metric() returned shape {scores.shape} for {len(targets)} examples; "
                "return one score for each example, or one number"
            )
        if not np.isfinite(scores).all():
            raise PlanError(f"{file}: metric() returned NaN or infinity")
        return float(scores) if scores.ndim == 0 else scores

    return checked
