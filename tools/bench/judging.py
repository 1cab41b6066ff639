"""What each file is worth: its accuracy in its own runtime, its size, and its speed beside that of fp32."""

from __future__ import annotations

import dataclasses
import statistics
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedeploy.errors import ExportError
from edgedeploy.evaluate import drop, evaluate, evaluate_model
from edgedeploy.export.parity import relative_rms_error
from edgedeploy.exported_file import run_once_apart
from edgedeploy.on_device.runtimes import open_model
from edgedeploy.quiet import quiet
from tools.bench.contenders import Contender
from tools.bench.rows import OURS, interleave
from tools.bench.subjects import Subject

ROUNDS = 31
TURN_S, TURN_RUNS = 0.02, 3


@dataclass(frozen=True, slots=True)
class Speed:
    """How many times as fast as the base, taken within each round: the median, and the interquartile range."""

    ratio: float
    spread: float


@dataclass(frozen=True, slots=True)
class Judged:
    """All that is known of one file; where there is none, or it does not run, only `why`.

    `drop_at_most` is the upper bound of what is lost against the source net (paired, 95 %), `error` the relative
    RMS error of the outputs, both on the test split.
    """

    by: str
    what: str
    accuracy: float | None = None
    drop_at_most: float | None = None
    error: float | None = None
    size_bytes: int | None = None
    zipped_bytes: int | None = None
    speed: Speed | None = None
    why: str = ""


def judge(subject: Subject, contenders: Sequence[Contender], rounds: int | None = None) -> list[Judged]:
    """Judge files of one format side by side, the first of which is fp32, the base of all speeds."""
    source = evaluate_model(subject.net, subject.task, "test")
    judged: list[Judged] = []
    calls: dict[str, Callable[[], object]] = {}
    for number, contender in enumerate(contenders):
        if contender.path is None or contender.contract is None:
            judged.append(Judged(contender.by, contender.what, why=contender.why))
            continue
        try:
            if contender.by != OURS:  # an export of ours has been run apart already
                run_once_apart(contender.path, contender.contract)
            found = evaluate(contender.path, contender.contract, subject.task, "test")
        except ExportError as error:
            judged.append(Judged(contender.by, contender.what, why=f"failed: {error}"))
            continue
        calls[str(number)] = _call(contender.path, contender.contract, subject)
        content = contender.path.read_bytes()
        judged.append(
            Judged(
                contender.by,
                contender.what,
                found.quality.value,
                drop(source, found).high,
                relative_rms_error(found.outputs[0], source.outputs[0]),
                len(content),
                len(zlib.compress(content, 9)),
            )
        )
    speeds = speed_ups(interleave({name: _turn(call) for name, call in calls.items()}, rounds or ROUNDS))
    return [dataclasses.replace(each, speed=speeds.get(str(number))) for number, each in enumerate(judged)]


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


def _turn(call: Callable[[], object]) -> Callable[[], float]:
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
