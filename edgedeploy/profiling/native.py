"""Measures where no agent can run: native runners are called in its place, and their words become judged reports.

What a native runner does not tell is None in the report, and its verdict is at best suspect and says what is not known.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median

from edgedeploy.board.bare import BareBoard
from edgedeploy.board.runners import Runner
from edgedeploy.errors import AgentError, BoardError, TransportTimeout
from edgedeploy.profiling.judge import few_runs, misfits, unsteady, void_reason
from edgedeploy.profiling.modes import Mode
from edgedeploy.profiling.native_conditions import (
    FACTS_SCRIPT,
    SNAPSHOT_SCRIPT,
    BareFacts,
    parse_facts,
    parse_snapshot,
)
from edgedeploy.profiling.native_failures import complaint, does_not_start, failure, is_usage
from edgedeploy.profiling.native_output import NativeRun, parse_benchmark_model, parse_perf_test
from edgedeploy.profiling.session import in_ms
from edgedeploy.records import (
    CPU,
    Conditions,
    Device,
    DeviceProfile,
    Format,
    Latency,
    Memory,
    Metrics,
    Outcome,
    Repetition,
    Report,
    Variant,
    Verdict,
)
from edgedeploy.statistics import least_runs, median_interval, percentile

RUN_TIMEOUT_S = 300.0
WARM_UP_RUNS = 30
WARM_UP_S = 0.5
# Below, one more or less is over 2 %, and medians that agree to the microsecond say nothing of how well p50 is known.
_COARSE_US = 50

_Run = tuple[NativeRun, Repetition]


@dataclass(slots=True)
class _Measured:
    """What came of one variant so far."""

    outcome: Outcome = Outcome.OK
    detail: str = ""
    runs: list[_Run] = field(default_factory=list)
    memory: NativeRun | None = None


def profile_natively(
    board: BareBoard,
    device: Device,
    kind: DeviceProfile,
    variants: Sequence[Variant],
    runners: Mapping[Format, Runner],
    *,
    mode: Mode,
    threads: int = 1,
    seed: int = 0,
    step: Callable[[str], None] = lambda _: None,
) -> Iterator[Report]:
    """Measure variants that lie on the board, with the runners that lie there, on its CPU; one report each.

    A repetition is a process; those of all variants are interleaved in random order. Where a runner does not run there
    at all, or is a release that cannot be read, the reports of the other one come before BoardError is raised. Raises
    LeaseError and TransportError too.
    """
    facts = parse_facts(board.ask(FACTS_SCRIPT), board.facts.machine)
    named = f" ({facts.phone})" if facts.phone else ""
    step(f"profile {len(variants)} variants on {device.name}{named} by native runners ({mode.name})")
    measured = {variant.id: _Measured() for variant in variants}
    broken: dict[Format, BoardError] = {}
    rounds = [list(variants) for _ in range(mode.repetitions)]
    shuffler = random.Random(seed)  # noqa: S311 - an order, no secret
    for order in rounds:
        shuffler.shuffle(order)
        for variant in order:
            state = measured[variant.id]
            if state.outcome is Outcome.OK and variant.target.format not in broken:
                with _blamed(variant, broken):
                    _repeat(board, variant, runners[variant.target.format], state, mode, threads)
    for variant in variants:
        state = measured[variant.id]
        if state.outcome is Outcome.OK and variant.target.format is Format.TFLITE and Format.TFLITE not in broken:
            # monitoring takes time, so it is done in a process of its own
            options = (f"--num_threads={threads}", *_MEMORY_ONLY)
            with _blamed(variant, broken):
                state.memory = _call(board, variant, runners[variant.target.format], options, _Measured())
    for variant in variants:
        if variant.target.format not in broken:
            yield _report(
                variant, measured[variant.id], facts, board, device, kind, mode, threads, runners[variant.target.format]
            )
    if broken:
        raise next(iter(broken.values()))


@contextmanager
def _blamed(variant: Variant, broken: dict[Format, BoardError]) -> Iterator[None]:
    """Keep what is the fault of the runner of this variant's format, and go on with the other one."""
    try:
        yield
    except BoardError as error:
        broken[variant.target.format] = error


def _repeat(board: BareBoard, variant: Variant, runner: Runner, state: _Measured, mode: Mode, threads: int) -> None:
    before = parse_snapshot(board.ask(SNAPSHOT_SCRIPT))
    options = _options(runner.kind, mode, threads)
    run = _call(board, variant, runner, options, state)
    if run is None:
        return
    repetition = Repetition(
        init_ns=run.init_ns,
        first_inference_ns=run.first_inference_ns,
        warm_up_runs=run.warm_up_runs,
        warm_up_converged=False,
        samples_ns=run.samples_ns,
        before=before,
        after=parse_snapshot(board.ask(SNAPSHOT_SCRIPT)),
    )
    state.runs.append((run, repetition))


_MEMORY_ONLY = (
    *("--num_runs=1", "--min_secs=0", "--warmup_runs=1", "--warmup_min_secs=0"),
    "--report_peak_memory_footprint=true",
)


def _options(kind: str, mode: Mode, threads: int) -> tuple[str, ...]:
    runs, seconds = math.ceil(mode.min_runs / mode.repetitions), mode.min_seconds / mode.repetitions
    if kind == "benchmark_model":
        return (
            f"--num_threads={threads}",
            f"--num_runs={runs}",
            f"--min_secs={seconds:g}",
            f"--max_secs={RUN_TIMEOUT_S / 2:g}",
            f"--warmup_runs={WARM_UP_RUNS}",
            f"--warmup_min_secs={WARM_UP_S:g}",
        )
    # It knows whole seconds or a number of runs, and not both; input of its own making, by a fixed seed.
    return ("-e", "cpu", "-I", "-S", "1", "-x", str(threads), "-m", "duration", "-t", str(math.ceil(seconds)))


def _call(
    board: BareBoard, variant: Variant, runner: Runner, options: Sequence[str], state: _Measured
) -> NativeRun | None:
    """One process; None where it failed, and then `state` says how. BoardError where the runner is to blame."""
    libraries = f"{board.root}/runtimes/{runner.id}"
    program = f"{libraries}/{runner.binary}"
    suffix = variant.target.format.value
    if runner.kind == "benchmark_model":
        argv = [program, f"--graph=model.{suffix}", *options]
    else:
        argv = [program, *options, f"model.{suffix}", "rows.csv"]
    try:
        done, text, rows = board.run_runner(
            argv, model=f"{variant.artifact.sha256}.{suffix}", libraries=libraries, timeout_s=RUN_TIMEOUT_S
        )
    except TransportTimeout:
        board.ask(":")  # a link that is lost is no result of the variant's
        state.outcome, state.detail = Outcome.TIMEOUT, f"gave no answer within {RUN_TIMEOUT_S:g} s"
        return None
    if does_not_start(done.exit_code, text):
        last = next((line.strip()[:300] for line in reversed(text.splitlines()) if line.strip()), "")
        raise BoardError(
            f"{board.name}: the native runner {runner.binary} does not start there: {last or 'it says nothing'}; "
            "was it built for this system, and are its libraries beside it (`edgedeploy runtimes add --beside`)?"
        )
    if done.exit_code != 0 and is_usage(text):
        raise BoardError(
            f"{board.name}: the native runner {runner.binary} does not take the options that edgedeploy gives it "
            f"({' '.join(options)}): {complaint(text)}; add another release (`edgedeploy runtimes add`)."
        )
    try:
        if done.exit_code == 0:
            return parse_benchmark_model(text) if runner.kind == "benchmark_model" else parse_perf_test(text, rows)
        state.outcome, state.detail = failure(done.exit_code, text)
    except AgentError as error:
        state.outcome, state.detail = Outcome.CRASHED, str(error)
    except BoardError as error:
        raise BoardError(f"{board.name}: {error}") from error
    return None


def _judge(
    state: _Measured, conditions: Conditions, kept: Sequence[_Run], kind: DeviceProfile, runner: Runner
) -> tuple[Verdict, tuple[str, ...]]:
    """What can be believed of a native runner's numbers; at best they are suspect."""
    if state.outcome is not Outcome.OK:
        return Verdict.INVALID, (f"the outcome is {state.outcome}",)
    voids = [why for repetition in conditions.repetitions if (why := void_reason(repetition, kind))]
    if len(kept) < 2:
        few = f"only {len(kept)} of {len(conditions.repetitions)} repetitions count"
        return Verdict.INVALID, tuple(dict.fromkeys([few, *voids]))
    reasons = [f"outputs were not compared with the host's: {runner.kind} makes up its own input"]
    if not kept[0][0].keeps_samples:
        reasons.append(f"{runner.kind} keeps no raw samples: p50 and p95 are medians of what it tells of each process")
        shortest_us = min(run.samples_ns[0] for run, _ in kept) // 1000
        if shortest_us < _COARSE_US:
            reasons.append(f"{runner.kind} counts whole microseconds, and p50 is only {shortest_us} of them")
    reasons.append("whether the warm-up converged is not known")
    if voids:
        reasons.insert(0, f"{len(voids)} of {len(conditions.repetitions)} repetitions void: {voids[0]}")
    reasons += misfits(conditions, kind)
    if conditions.emulated:
        reasons.append("emulated")
    reasons += few_runs(sum(run.runs for run, _ in kept))
    reasons += unsteady([repetition for _, repetition in kept])
    return Verdict.SUSPECT, tuple(reasons)


def _report(
    variant: Variant,
    state: _Measured,
    facts: BareFacts,
    board: BareBoard,
    device: Device,
    kind: DeviceProfile,
    mode: Mode,
    threads: int,
    runner: Runner,
) -> Report:
    conditions = Conditions(
        mode=mode.name,
        threads=threads,
        accelerator=CPU,
        accelerator_used=CPU if state.runs else "",
        emulated=device.emulated or facts.emulated,
        python="",
        kernel=board.facts.kernel,
        machine=board.facts.machine,
        cpus=facts.cpus,
        isa=facts.isa,
        repetitions=tuple(repetition for _, repetition in state.runs),
    )
    kept = [(run, repetition) for run, repetition in state.runs if void_reason(repetition, kind) is None]
    verdict, reasons = _judge(state, conditions, kept, kind, runner)
    measured_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    identity = json.dumps([variant.id, device.name, measured_at, runner.id])
    return Report(
        id=hashlib.sha256(identity.encode()).hexdigest(),
        variant_id=variant.id,
        variant_name=variant.name,
        device=device.name,
        profile=kind.name,
        runtime=runner.kind,
        runtime_version=runner.id[:12],
        outcome=state.outcome,
        detail=state.detail,
        verdict=verdict,
        reasons=reasons,
        metrics=_metrics(state, kept or state.runs, runner),
        conditions=conditions,
        max_output_error=None,
        agent_sha256=runner.id,
        measured_at=measured_at,
    )


def _metrics(state: _Measured, kept: Sequence[_Run], runner: Runner) -> Metrics:
    absent = {"energy": "a native runner reads no sensor"}
    if state.outcome is not Outcome.OK or not kept:
        return Metrics(absent={**absent, "latency": f"the outcome is {state.outcome}", "memory": "it did not run"})
    memory, latency = _memory(state), _latency(kept)
    if memory is None:
        absent["memory"] = f"{runner.kind} told none"
    if not kept[0][0].keeps_samples:
        absent["p90"] = f"{runner.kind} tells none"
    if latency.first_inference_ms is None:
        absent["first inference"] = f"{runner.kind} tells whole milliseconds, and it took less than one"
    return Metrics(latency=latency, memory=memory, absent=absent)


def _latency(kept: Sequence[_Run]) -> Latency:
    """Of the repetitions that count; percentiles where a runner keeps no samples are medians of its own ones."""
    runs, repetitions = [run for run, _ in kept], [repetition for _, repetition in kept]
    samples = sorted(sample for repetition in repetitions for sample in repetition.samples_ns)
    low, high = median_interval([repetition.samples_ns for repetition in repetitions])
    p50_ns = percentile(samples, 0.50)
    assert p50_ns is not None
    if runs[0].keeps_samples:
        p90, p95, p99 = (percentile(samples, share) for share in (0.90, 0.95, 0.99))
    else:
        told = [run.p95_ns for run in runs if run.p95_ns is not None and run.runs >= least_runs(0.95)]
        p90, p95, p99 = None, round(median(told)) if told else None, None
    count = sum(run.runs for run in runs)
    return Latency(
        init_ms=repetitions[0].init_ns / 1e6,
        first_inference_ms=in_ms(repetitions[0].first_inference_ns),
        warm_up_runs=sum(run.warm_up_runs for run in runs),
        warm_up_converged=False,
        runs=count,
        mean_ms=sum(run.mean_ns * run.runs for run in runs) / max(1, count) / 1e6,
        min_ms=min(run.min_ns for run in runs) / 1e6,
        max_ms=max(run.max_ns for run in runs) / 1e6,
        p50_ms=p50_ns / 1e6,
        p50_low_ms=low / 1e6,
        p50_high_ms=high / 1e6,
        p90_ms=in_ms(p90),
        p95_ms=in_ms(p95),
        p99_ms=in_ms(p99),
    )


def _memory(state: _Measured) -> Memory | None:
    runs = [state.memory] if state.memory else [run for run, _ in state.runs]
    peaks = [run.peak_rss_bytes for run in runs if run.peak_rss_bytes]
    if not peaks:
        return None
    return Memory(max(peaks), runs[0].rss_over_start_bytes, None, None)
