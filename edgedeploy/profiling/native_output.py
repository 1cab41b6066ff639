"""Reads what native runners print; pure functions from text to numbers, by the formats of their sources.

benchmark_model: TensorFlow, lite/tools/benchmark/benchmark_model.cc and tsl/util/stats_calculator.h. Its lines may
begin with a severity. onnxruntime_perf_test: ONNX Runtime, onnxruntime/test/perftest/performance_runner.cc; the file
that it writes has a row a run: model, seconds, peak working set, CPU usage, number of the run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgedeploy.board.bare import MAX_ROWS
from edgedeploy.errors import AgentError, BoardError

_NUMBER = r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
# Where all runs took the same it says so behind the last of them, without min, max and avg.
_STATS = re.compile(r"\bcount=(\d+)((?: \w+=[^\s(]+(?:\(all same\))?)*)")
_SUMMARY = re.compile(
    rf"Inference timings in us: Init: {_NUMBER}, First inference: {_NUMBER}, "
    rf"Warmup \(avg\): {_NUMBER}, Inference \(avg\): {_NUMBER}"
)
_PEAK = re.compile(rf"Overall peak memory footprint \(MB\) via periodic monitoring: {_NUMBER}")
_DELTA = re.compile(rf"Memory footprint delta from the start of the tool \(MB\): init=\S+ overall={_NUMBER}")
# Older releases put no space after a colon, and say "total" after the average or not.
_CREATION = re.compile(rf"Session creation time cost:\s*{_NUMBER} s\b")
_FIRST = re.compile(rf"First inference time cost:\s*{_NUMBER} ms\b")
_WORKING_SET = re.compile(r"Peak working set size:\s*(\d+)")
_ROW = re.compile(rf"[^,\n]*,{_NUMBER},\d+,-?\d+,\d+")

# Beyond this, numbers are no times that anybody waited for.
_MAX_NS = 10**15


@dataclass(frozen=True, slots=True)
class NativeRun:
    """One process of a native runner; None is what it does not tell.

    `samples_ns` are the times of its runs where it keeps them. Where it does not, they are one: its median.
    `rss_over_start_bytes` is the peak less what the process had before it loaded the model.
    """

    init_ns: int
    first_inference_ns: int | None
    warm_up_runs: int
    runs: int
    samples_ns: tuple[int, ...]
    mean_ns: int
    min_ns: int
    max_ns: int
    p95_ns: int | None
    keeps_samples: bool
    peak_rss_bytes: int | None = None
    rss_over_start_bytes: int | None = None


def parse_benchmark_model(text: str) -> NativeRun:
    """What `benchmark_model` printed, on either stream.

    Raises AgentError where a number that must be there is not, and BoardError where this release never tells it.
    """
    summary = _SUMMARY.search(text)
    stats = [(int(match[1]), _pairs(match[2])) for match in _STATS.finditer(text)]
    if summary is None or len(stats) < 2:
        raise AgentError("benchmark_model printed no timings: they end with `Inference timings in us`")
    warm_up_runs, runs = stats[0][0], stats[1][0]
    steady = stats[1][1]
    if "median" not in steady:
        raise BoardError(
            "benchmark_model printed no median, as older releases do not; add a newer one by `edgedeploy runtimes add`"
        )
    median_ns = _ns(steady["median"], 1e3)
    return NativeRun(
        init_ns=_ns(summary[1], 1e3),
        first_inference_ns=_ns(summary[2], 1e3),
        warm_up_runs=warm_up_runs,
        runs=runs,
        samples_ns=(median_ns,),
        mean_ns=_ns(summary[4], 1e3),
        min_ns=_ns(steady.get("min", steady["median"]), 1e3),
        max_ns=_ns(steady.get("max", steady["median"]), 1e3),
        p95_ns=_ns(steady["p95"], 1e3) if "p95" in steady else None,
        keeps_samples=False,
        peak_rss_bytes=_bytes(_PEAK.search(text)),
        rss_over_start_bytes=_bytes(_DELTA.search(text)),
    )


def parse_perf_test(text: str, rows: str) -> NativeRun:
    """What `onnxruntime_perf_test` printed, and the file that it wrote.

    Raises AgentError where it wrote no runs, and BoardError where this release does not tell all that is needed.
    """
    creation, first, peak = _CREATION.search(text), _FIRST.search(text), _WORKING_SET.search(text)
    samples = tuple(
        _ns(match[1], 1e9) for line in rows.splitlines()[:MAX_ROWS] if (match := _ROW.fullmatch(line.strip()))
    )
    if not samples:
        raise AgentError("onnxruntime_perf_test wrote no file with the times of its runs")
    if creation is None or first is None:
        raise BoardError(
            "onnxruntime_perf_test did not tell how long its session and its first inference took, as older releases "
            "do not; add a newer one by `edgedeploy runtimes add`"
        )
    return NativeRun(
        init_ns=_ns(creation[1], 1e9),
        first_inference_ns=_ns(first[1], 1e6) or None,  # it tells whole milliseconds, and a 0 of them is no time
        warm_up_runs=1,
        runs=len(samples),
        samples_ns=samples,
        mean_ns=sum(samples) // len(samples),
        min_ns=min(samples),
        max_ns=max(samples),
        p95_ns=None,
        keeps_samples=True,
        peak_rss_bytes=int(peak[1]) or None if peak else None,
    )


def _pairs(text: str) -> Mapping[str, str]:
    return dict(pair.split("=", 1) for pair in text.replace("(all same)", "").split())


def _ns(text: str, unit_ns: float) -> int:
    try:
        value = float(text) * unit_ns
    except ValueError as error:
        raise AgentError(f"a native runner printed {text[:40]!r} where a time must be") from error
    if not 0 <= value <= _MAX_NS:
        raise AgentError(f"a native runner printed {text[:40]!r} where a time must be")
    return round(value)


def _bytes(mebibytes: re.Match[str] | None) -> int | None:
    return round(float(mebibytes[1]) * (1 << 20)) if mebibytes and float(mebibytes[1]) > 0 else None
