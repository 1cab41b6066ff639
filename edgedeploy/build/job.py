"""What can be built on its own: a recipe in one format, from its passes to files that only wait to be kept."""

from __future__ import annotations

import contextlib
import json
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from edgedeploy import compress, export, packing
from edgedeploy.build.account import Compressed, Sizes, Watch, exported_step, packed
from edgedeploy.build.guard import Guard, Guarded
from edgedeploy.build.identity import Request
from edgedeploy.build.layers import with_sensitivity
from edgedeploy.errors import CompressionError, ExportError, PlanError
from edgedeploy.evaluate import Evaluation, drop, evaluate, evaluate_model
from edgedeploy.export import FloatFile
from edgedeploy.records import (
    Drop,
    Format,
    LayerAccount,
    LayerSensitivity,
    OperatorUse,
    Parity,
    Precision,
    Quality,
    Recipe,
    StepAccount,
)
from edgedeploy.task import Task, load_task

# What pickling a net raises, or taking it up again: a class inside a function, an open file, a hook.
_NOT_PICKLED = (pickle.PickleError, AttributeError, TypeError, RuntimeError, ImportError, EOFError)


@dataclass(frozen=True, slots=True)
class Job:
    """Variants of one recipe in one format; or, where it does not export, the compression that several jobs share.

    `shared` is where the compressed net lies for other processes, None where all jobs are done in one. `then` are
    the jobs that can be done once this one is.
    """

    recipe: Recipe
    requests: tuple[Request, ...]
    shared: Path | None = None
    exports: bool = True
    then: tuple[Job, ...] = ()

    @property
    def format(self) -> Format:
        """The format of all its variants, where it exports."""
        return self.requests[0].target.format


@dataclass(frozen=True, slots=True)
class Failure:
    """A variant that the plan asks for and that could not be built, with the reason."""

    variant: str
    reason: str


@dataclass(frozen=True, slots=True)
class Made:
    """A variant whose file, contract and probe still lie in the job's folder."""

    request: Request
    path: Path
    contract: Path
    probe: Path
    parity: Parity
    quality: Quality
    drop: Drop
    parameters: int
    packed: Path
    notes: tuple[str, ...]
    operators: tuple[OperatorUse, ...]
    kept_float: tuple[str, ...]
    sensitivity: tuple[LayerSensitivity, ...]
    steps: tuple[StepAccount, ...]
    layers: tuple[LayerAccount, ...]


class Say(Protocol):
    """Gets one line on what is being done, and the variant that it is done for, None where it is for several."""

    def __call__(self, text: str, request: Request | None = None) -> None:
        """Take the line."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What all jobs of a build start from.

    `digest` is that of the task that they are meant to work on, None where nobody else works on it.
    """

    task_file: Path
    weights: Path | None
    digest: str | None
    source: Path | None = None


class Bench:
    """Does jobs one after another, and loads the task once for all of them."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._compressed: tuple[str, Compressed | CompressionError] | None = None

    @cached_property
    def task(self) -> Task:
        """The task, as it was when the build began. Raises PlanError where it is another one now."""
        task = load_task(self._ground.task_file, self._ground.weights, self._ground.source)
        if self._ground.digest not in (None, task.digest):
            raise PlanError(
                f"{self._ground.task_file}: another process sees another task: seed whatever chance data() uses, "
                "and do not edit the task during a build."
            )
        return task

    @cached_property
    def sizes(self) -> Sizes:
        """What remembers the sizes of the source's files."""
        return Sizes(self.task)

    @cached_property
    def source(self) -> Evaluation:
        """How good the source net is on the selection split."""
        return evaluate_model(self.task.load_model(), self.task, "selection")

    def do(self, job: Job, folder: Path, say: Say) -> Iterator[Made | Failure]:
        """Do a job in an empty folder; what it yields lies there. Raises PlanError for what is wrong with the task."""
        with _one_thread():
            _ = self.source
            try:
                compressed = self._model(job, say)
            except CompressionError as error:
                yield from _all_failed(job.requests, str(error))
                return
            if job.exports:
                yield from self._export(compressed, job, folder, say)

    def _export(self, compressed: Compressed, job: Job, folder: Path, say: Say) -> Iterator[Made | Failure]:
        say(f"convert {job.recipe.name} to {job.format}")
        try:
            float_file = export.convert(compressed.net, job.format, self.task, folder, job.requests[0].target.batch)
        except ExportError as error:
            yield from _all_failed(job.requests, str(error))
            return
        if job.recipe.passes:
            say(f"measure what each pass of {job.recipe.name} leaves as {job.format}")
        steps = tuple(self.sizes.steps(compressed.stages, float_file, folder))
        for request in job.requests:
            say(f"export {request.name}", request)
            place = Path(tempfile.mkdtemp(dir=folder))
            try:
                yield self._one(float_file, request, steps, compressed, place, say)
            except ExportError as error:
                yield Failure(request.name, str(error))

    def _one(
        self,
        float_file: FloatFile,
        request: Request,
        steps: tuple[StepAccount, ...],
        compressed: Compressed,
        place: Path,
        say: Say,
    ) -> Made:
        task, target, source = self.task, request.target, self.source
        max_drop = None if target.precision is Precision.FP32 else request.recipe.max_drop
        if max_drop is None:
            held = Guarded(export.quantise(float_file, target, task, place))
        else:
            held = Guard(
                float_file, target, source, max_drop, place, lambda text: say(f"{request.name}: {text}", request)
            ).export()
        exported = held.exported
        parity = export.check_parity(exported, target, task)
        contract = place / "contract.json"
        contract.write_text(json.dumps(exported.contract, sort_keys=True, indent=1, allow_nan=False), "utf-8")
        test = evaluate(exported.path, exported.contract, task, "test")
        selection = evaluate(exported.path, exported.contract, task, "selection")
        container = place / f"model.{packing.FORMAT}"
        size_bytes = container.write_bytes(packed(exported.path.read_bytes(), target.format))
        lost = drop(source, selection)
        last = exported_step(steps[-1], exported.path, target.format, size_bytes, selection.quality, lost)
        return Made(
            request=request,
            path=exported.path,
            contract=contract,
            probe=exported.probe_path,
            parity=parity,
            quality=test.quality,
            drop=lost,
            parameters=last.parameters,
            packed=container,
            notes=(*compress.findings.notes_of(compressed.net), *exported.notes),
            operators=exported.operators,
            kept_float=held.kept_float,
            sensitivity=held.sensitivity,
            steps=(*steps, last),
            layers=with_sensitivity(compressed.layers, held.sensitivity),
        )

    def _model(self, job: Job, say: Say) -> Compressed:
        """The recipe's net: at hand, left by another process, or made now. Raises CompressionError, each time."""
        name = job.recipe.name
        if self._compressed is None or self._compressed[0] != name:
            self._compressed = name, _read(job.shared) or self._compress(job, say)
        net = self._compressed[1]
        if isinstance(net, CompressionError):
            raise net
        return net

    def _compress(self, job: Job, say: Say) -> Compressed | CompressionError:
        name, passes, task = job.recipe.name, job.recipe.passes, self.task
        say(f"compress {name}" if passes else f"load {name}")
        model = task.load_model()
        watch = Watch(model, task, self.source, len(passes))
        try:
            net = compress.apply_passes(model, passes, task, lambda text: say(f"{name}: {text}"), watch.see)
        except CompressionError as error:
            return error
        compressed = watch.end(net)
        if job.shared is not None and not job.exports:
            _write(compressed, job.shared)
        return compressed


def _write(net: Compressed, file: Path) -> None:
    """Leave a net to other processes, or nothing where it cannot be pickled: passes give them the same one anew."""
    import torch

    try:
        torch.save(net, file)
    except _NOT_PICKLED:
        file.unlink(missing_ok=True)


def _read(file: Path | None) -> Compressed | None:
    if file is None or not file.exists():
        return None
    import torch

    try:
        net: Compressed = torch.load(file, weights_only=False)  # our own process wrote it, into our own workspace
    except _NOT_PICKLED:
        return None
    return net


def _all_failed(requests: Sequence[Request], reason: str) -> Iterator[Failure]:
    return (Failure(request.name, reason) for request in requests)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order, so that the figures are the same however many processes share the work."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
