"""What each file is worth: its accuracy in its own runtime, its size, and its speed beside that of fp32."""

from __future__ import annotations

import dataclasses
import statistics
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedeploy.errors import ExportError
from edgedeploy.evaluate import Evaluation, drop, evaluate, evaluate_model
from edgedeploy.export.parity import relative_rms_error
from edgedeploy.exported_file import run_once_apart
from edgedeploy.on_device.runtimes import open_model
from edgedeploy.quiet import quiet
from tools.bench.contenders import Contender
from tools.bench.rows import OURS, interleave
from tools.bench.subjects import Subject

if TYPE_CHECKING:
    import numpy as np

ROUNDS = 31
TURN_S, TURN_RUNS = 0.02, 3


@dataclass(frozen=True, slots=True)
class Speed:
    """How many times as fast as the base, taken within each round: the median, and the interquartile range."""

    ratio: float
    spread: float


@dataclass(frozen=True, slots=True, eq=False)
class Figures:
    """What a file that runs is worth, on the test split.

    `drop_at_most` is the upper bound of what is lost against the source net (paired, 95 %), `error` the relative
    RMS error of the outputs, `scores` 1 for each example that came out right, shape (n,). `speed` is None where
    there is no fp32 file to compare with.
    """

    accuracy: float
    drop_at_most: float
    error: float
    size_bytes: int
    zipped_bytes: int
    scores: np.ndarray
    speed: Speed | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A file and its figures, or `why` there are none."""

    by: str
    what: str
    figures: Figures | None = None
    why: str = ""


def judge(subject: Subject, contenders: Sequence[Contender], rounds: int | None = None) -> list[Judged]:
    """Judge files of one format side by side, the first of which is fp32, the base of all speeds."""
    source = evaluate_model(subject.net, subject.task, "test")
    figures: dict[int, Figures] = {}
    why = {number: contender.why for number, contender in enumerate(contenders)}
    calls: dict[str, Callable[[], object]] = {}
    for number, contender in enumerate(contenders):
        if contender.path is None or contender.contract is None:
            continue
        try:
            if contender.by != OURS:  # an export of ours has been run apart already
                run_once_apart(contender.path, contender.contract)
            figures[number] = _figures(contender.path, contender.contract, subject, source)
        except ExportError as error:
            why[number] = f"failed: {error}"
            continue
        calls[str(number)] = _call(contender.path, contender.contract, subject)
    speeds = speed_ups(interleave({name: turn(call) for name, call in calls.items()}, rounds or ROUNDS))
    for name, speed in speeds.items():
        figures[int(name)] = dataclasses.replace(figures[int(name)], speed=speed)
    return [Judged(each.by, each.what, figures.get(at), why[at]) for at, each in enumerate(contenders)]


def _figures(path: Path, contract: Mapping[str, Any], subject: Subject, source: Evaluation) -> Figures:
    found = evaluate(path, contract, subject.task, "test")
    assert found.scores is not None  # the metric gives one an example
    content = path.read_bytes()
    return Figures(
        found.quality.value,
        drop(source, found).high,
        relative_rms_error(found.outputs[0], source.outputs[0]),
        len(content),
        len(zlib.compress(content, 9)),
        found.scores,
    )


def speed_ups(samples: Mapping[str, Sequence[float]], base: str = "0") -> dict[str, Speed]:
    """How many times as fast as `base` each one is; nothing where `base` was not timed."""
    if base not in samples:
        return {}
    speeds = {}
    for name, figures in samples.items():
        ratios = [reference / figure for figure, reference in zip(figures, samples[base], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        speeds[name] = Speed(statistics.median(ratios), high - low)
    return speeds


def _call(path: Path, contract: Mapping[str, Any], subject: Subject) -> Callable[[], object]:
    """One inference of one example, on one thread of the CPU: the runtime's own call and nothing else."""
    with quiet():
        model = open_model(str(path), dict(contract))
        prepared = model.prepare([array[:1] for array in subject.task.test.inputs])
    return lambda: model.invoke(prepared)


def turn(call: Callable[[], object]) -> Callable[[], float]:
    """What `interleave` asks for a figure: the median time of a burst of calls, in ns."""

    def measure() -> float:
        call()  # what ran before has emptied the caches
        samples: list[int] = []
        end = time.perf_counter() + TURN_S
        while len(samples) < TURN_RUNS or time.perf_counter() < end:
            start = time.perf_counter_ns()
            call()
            samples.append(time.perf_counter_ns() - start)
        return statistics.median(samples)

    return measure
