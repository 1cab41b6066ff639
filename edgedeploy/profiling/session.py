"""Runs the agent's profile operation on a board and turns its raw numbers into judged reports."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from edgedeploy.board import Board, lying
from edgedeploy.errors import AgentError, BoardError
from edgedeploy.profiling.judge import judge, void_reason
from edgedeploy.profiling.modes import MAX_RUNS, WARM_UP, Mode
from edgedeploy.records import (
    CPU,
    Accelerator,
    Conditions,
    Device,
    DeviceProfile,
    Energy,
    Latency,
    Memory,
    Metrics,
    Outcome,
    Precision,
    Repetition,
    Report,
    Snapshot,
    Variant,
)
from edgedeploy.statistics import median_interval, percentile

# How far a board's outputs may stray from the host's, relative to the range of the host's outputs: other
# instruction sets round otherwise, and in int8 one step of the last layer is already 1/255.
OUTPUT_TOLERANCE = {
    Precision.FP32: 1e-3,
    Precision.FP16: 2e-2,
    Precision.W8: 1e-3,
    Precision.W4: 1e-3,
    Precision.INT8_DYNAMIC: 5e-2,
    Precision.INT8: 5e-2,
    Precision.INT16X8: 1e-2,
}

# An accelerator may compute floats in fewer bits than the host does, as TensorRT does with TF32.
ACCELERATED_TOLERANCE = 2e-2

CHILD_TIMEOUT_S = 300.0
# TensorRT tries out kernels for minutes before it has an engine, on the small boards for many.
BUILD_TIMEOUT_S = 3600.0
FACTS_TIMEOUT_S = 300.0


def profile(
    board: Board,
    device: Device,
    kind: DeviceProfile,
    variants: Sequence[Variant],
    *,
    mode: Mode,
    threads: int = 1,
    accelerator: str = CPU,
    seed: int = 0,
) -> list[Report]:
    """Measure variants that are already on the board, interleaved; one report each, in the order given.

    Raises AgentError where the board's report cannot be used, BoardError where the board has no runtime at all, and
    the errors of `Board.run_job`.
    """
    switches = [kind.accelerator(accelerator, variant.target) for variant in variants]
    deadline_s = child_timeout_s(switches)
    operation = {
        "op": "profile",
        "mode": mode.name,
        "threads": threads,
        "accelerator": accelerator,
        "seed": seed,
        "repetitions": mode.repetitions,
        "min_runs": mode.min_runs,
        "min_seconds": mode.min_seconds,
        "max_runs": MAX_RUNS,
        "warm_up": WARM_UP,
        "child_timeout_s": deadline_s,
        "variants": [
            {
                "id": variant.id,
                "format": variant.target.format.value,
                "artifact": variant.artifact.sha256,
                "contract": variant.contract.sha256,
                "probe": variant.probe.sha256,
                "tolerance": output_tolerance(variant.target.precision, switch),
                **_packed(board, variant),
                **({"switch": given} if (given := switched_on(switch)) else {}),
            }
            for variant, switch in zip(variants, switches, strict=True)
        ],
    }
    # Every child may take its whole time before the agent gives up on it.
    timeout_s = 60.0 + deadline_s * len(variants) * (mode.repetitions + 2)
    document = board.run_job([operation], timeout_s=timeout_s)
    result = board.result(document, 0)
    said = {entry["id"]: entry for entry in result["variants"]}
    missing = [variant.name for variant in variants if variant.id not in said]
    if missing:
        raise AgentError(f"{device.name}: the agent's report leaves out {', '.join(missing)}; run the profile again.")
    if all(entry["outcome"] == Outcome.UNSUPPORTED for entry in said.values()):
        _check_runtimes(board, kind)
    return [
        _report(variant, said[variant.id], document, device, kind, mode, threads, accelerator) for variant in variants
    ]


def child_timeout_s(accelerators: Iterable[Accelerator | None]) -> float:
    """How long one process on the board may take; None among the accelerators stands for the CPU."""
    return BUILD_TIMEOUT_S if any(one is not None and one.caches for one in accelerators) else CHILD_TIMEOUT_S


def output_tolerance(precision: Precision, accelerator: Accelerator | None) -> float:
    """How far a board may stray from the host on an accelerator, None for the CPU, relative to the outputs' range."""
    least = ACCELERATED_TOLERANCE if switched_on(accelerator) else 0.0
    return max(OUTPUT_TOLERANCE[precision], least)


def _packed(board: Board, variant: Variant) -> dict[str, Any]:
    """How a job names the object that rebuilds a variant's file; nothing where the file itself lies there."""
    if lying(board, variant) == variant.artifact:
        return {}
    return {"packed": {"sha256": variant.packed.sha256, "file_bytes": variant.artifact.size_bytes}}


def switched_on(accelerator: Accelerator | None) -> dict[str, Any]:
    """How a job says that an accelerator is to be switched on; nothing where the runtime does it by itself."""
    names = ("provider", "library", "device", "then", "session", "delegate", "options")
    return {name: value for name in names if accelerator and (value := getattr(accelerator, name))}


def _check_runtimes(board: Board, kind: DeviceProfile) -> None:
    """Tell a board without any runtime, which is an error of the board, from files that its runtimes refuse."""
    facts = board.result(board.run_job([{"op": "facts"}], timeout_s=FACTS_TIMEOUT_S), 0)["facts"]
    if not facts["runtimes"]:
        wanted = " or ".join(dict.fromkeys(runtime.name for runtime in kind.runtimes))
        raise BoardError(
            f"{board.name}: no inference runtime can be imported by {board.python}: "
            f"install {wanted} there, or name a Python that has one with `python =` in fleet.toml."
        )


def _report(
    variant: Variant,
    raw: Mapping[str, Any],
    document: Mapping[str, Any],
    device: Device,
    kind: DeviceProfile,
    mode: Mode,
    threads: int,
    accelerator: str,
) -> Report:
    facts = document["board"]
    conditions = Conditions(
        mode=mode.name,
        threads=threads,
        accelerator=accelerator,
        accelerator_used=raw["accelerator_used"],
        accelerator_share=raw["accelerator_share"],
        placement=raw["placement"],
        build_ms=in_ms(raw["build_ns"]),
        emulated=device.emulated or bool(facts["emulated"]),
        python=facts["python"],
        kernel=facts["kernel"],
        machine=facts["machine"],
        cpus=facts["cpus"],
        isa=tuple(facts["isa"]),
        repetitions=tuple(_repetition(repetition) for repetition in raw["repetitions"]),
    )
    outcome = Outcome(raw["outcome"])
    kept = [repetition for repetition in conditions.repetitions if void_reason(repetition, kind) is None]
    verdict, reasons = judge(outcome, conditions, kept, kind)
    measured_at = datetime.fromtimestamp(document["finished_unix_ns"] / 1e9, UTC).isoformat(timespec="milliseconds")
    identity = json.dumps([variant.id, device.name, measured_at, document["agent_sha256"]])
    return Report(
        id=hashlib.sha256(identity.encode()).hexdigest(),
        variant_id=variant.id,
        variant_name=variant.name,
        device=device.name,
        profile=kind.name,
        runtime=raw["runtime"] or "",
        runtime_version=raw["runtime_version"] or "",
        outcome=outcome,
        detail=raw["detail"] or "",
        verdict=verdict,
        reasons=reasons,
        metrics=_metrics(raw, kept or conditions.repetitions, outcome),
        conditions=conditions,
        max_output_error=raw["max_output_error"],
        agent_sha256=document["agent_sha256"],
        measured_at=measured_at,
    )


def _metrics(raw: Mapping[str, Any], repetitions: Sequence[Repetition], outcome: Outcome) -> Metrics:
    absent = dict(raw["absent"])
    if not repetitions:
        absent["latency"] = f"the outcome is {outcome}"
    memory = raw["memory"]
    return Metrics(
        latency=_latency(repetitions) if repetitions else None,
        memory=_memory(memory) if memory else None,
        energy=Energy(**raw["energy"]) if raw["energy"] else None,
        absent=absent,
    )


def _latency(repetitions: Sequence[Repetition]) -> Latency:
    samples = sorted(sample for repetition in repetitions for sample in repetition.samples_ns)
    low, high = median_interval([repetition.samples_ns for repetition in repetitions])
    p50_ns = percentile(samples, 0.50)
    assert p50_ns is not None
    return Latency(
        # The first repetition is the only one that may have found the file outside the page cache.
        init_ms=repetitions[0].init_ns / 1e6,
        first_inference_ms=in_ms(repetitions[0].first_inference_ns),
        warm_up_runs=sum(repetition.warm_up_runs for repetition in repetitions),
        warm_up_converged=all(repetition.warm_up_converged for repetition in repetitions),
        runs=len(samples),
        mean_ms=sum(samples) / len(samples) / 1e6,
        min_ms=samples[0] / 1e6,
        max_ms=samples[-1] / 1e6,
        p50_ms=p50_ns / 1e6,
        p50_low_ms=low / 1e6,
        p50_high_ms=high / 1e6,
        p90_ms=in_ms(percentile(samples, 0.90)),
        p95_ms=in_ms(percentile(samples, 0.95)),
        p99_ms=in_ms(percentile(samples, 0.99)),
    )


def in_ms(value_ns: float | None) -> float | None:
    """Milliseconds of nanoseconds; None stays None."""
    return None if value_ns is None else value_ns / 1e6


def _memory(raw: Mapping[str, Any]) -> Memory:
    pss, baseline_pss = raw["pss_bytes"], raw["baseline_pss_bytes"]
    return Memory(
        peak_rss_bytes=raw["peak_rss_bytes"],
        peak_rss_over_runtime_bytes=raw["peak_rss_bytes"] - raw["baseline_peak_rss_bytes"],
        pss_bytes=pss,
        pss_over_runtime_bytes=None if pss is None or baseline_pss is None else pss - baseline_pss,
    )


def _repetition(raw: Mapping[str, Any]) -> Repetition:
    return Repetition(
        init_ns=raw["init_ns"],
        first_inference_ns=raw["first_inference_ns"],
        warm_up_runs=raw["warm_up_runs"],
        warm_up_converged=raw["warm_up_converged"],
        samples_ns=tuple(raw["samples_ns"]),
        before=_snapshot(raw["before"]),
        after=_snapshot(raw["after"]),
    )


def _snapshot(raw: Mapping[str, Any]) -> Snapshot:
    fields = dict(raw)
    governors, frequencies_mhz = fields.pop("governors"), fields.pop("frequencies_mhz")
    return Snapshot(governors=tuple(governors), frequencies_mhz=tuple(frequencies_mhz), **fields)
