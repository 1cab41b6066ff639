"""Records as a project would hold them, for tests that need no board and no net."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from edgedeploy.records import (
    Artifact,
    Conditions,
    CpuCluster,
    Device,
    DeviceProfile,
    Drop,
    Format,
    Latency,
    Memory,
    Metrics,
    Outcome,
    Parity,
    Precision,
    Quality,
    Repetition,
    Report,
    RuntimeSupport,
    Snapshot,
    Target,
    Variant,
    Verdict,
)

ONNX_FP32 = Target(Format.ONNX, Precision.FP32)
ALL_PRECISIONS = tuple(Precision)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_profile(**changes: object) -> DeviceProfile:
    profile = DeviceProfile(
        name="box",
        title="A box",
        arch="x86_64",
        clusters=(CpuCluster("core", 2),),
        isa=("avx2",),
        memory_bytes=10**9,
        runtimes=(
            RuntimeSupport("onnxruntime", Format.ONNX, ALL_PRECISIONS),
            RuntimeSupport("ai-edge-litert", Format.TFLITE, ALL_PRECISIONS),
        ),
        transports=("local",),
    )
    return replace(profile, **changes)  # type: ignore[arg-type]


def make_device(**changes: object) -> Device:
    return replace(Device("here", "box", "local:"), **changes)  # type: ignore[arg-type]


def make_variant(
    name: str = "dense-onnx-fp32",
    *,
    target: Target = ONNX_FP32,
    size_bytes: int = 1000,
    drop: float = 0.0,
    quality: float = 0.97,
) -> Variant:
    return Variant(
        id=digest(name),
        name=name,
        recipe=name.split("-", 1)[0],
        passes=(),
        target=target,
        task_digest=digest("task"),
        tools={"torch": "2.13.0"},
        artifact=Artifact(digest(name + "file"), target.format.value, size_bytes),
        contract=Artifact(digest(name + "contract"), "json", 100),
        probe=Artifact(digest(name + "probe"), "npz", 100),
        parity=Parity(1e-6, 1e-6, 1e-4, 64),
        quality=Quality("accuracy", "test", quality, quality - 0.01, quality + 0.01, 400),
        drop=Drop(drop, drop - 0.01, drop + 0.01, 300),
        parameters=1234,
        packed=Artifact(digest(name + "packed"), "edpk", size_bytes // 2),
    )


def make_repetition(p50_ms: float, *, runs: int = 100, **changes: object) -> Repetition:
    # A fixed saw-tooth of 2 % around the median: enough spread for an interval, none of it random.
    samples = tuple(round(p50_ms * 1e6 * (0.99 + 0.02 * (i % 11) / 10)) for i in range(runs))
    repetition = Repetition(5_000_000, 2_000_000, 40, True, samples, Snapshot(load_1m=0.2), Snapshot(load_1m=0.5))
    return replace(repetition, **changes)  # type: ignore[arg-type]


def make_conditions(*repetitions: Repetition, **changes: object) -> Conditions:
    conditions = Conditions("quick", 1, "cpu", "cpu", False, "3.11.7", "6.1", "x86_64", 2, repetitions)
    return replace(conditions, **changes)  # type: ignore[arg-type]


def make_report(
    variant: Variant,
    p50_ms: float = 1.0,
    *,
    device: str = "here",
    verdict: Verdict = Verdict.VALID,
    reasons: tuple[str, ...] = (),
    outcome: Outcome = Outcome.OK,
    detail: str = "",
    peak_rss_bytes: int | None = 50_000_000,
    emulated: bool = False,
    absent: dict[str, str] | None = None,
) -> Report:
    latency = Latency(
        init_ms=5.0,
        first_inference_ms=2.0,
        warm_up_runs=120,
        warm_up_converged=True,
        runs=300,
        mean_ms=p50_ms,
        min_ms=p50_ms * 0.99,
        max_ms=p50_ms * 1.01,
        p50_ms=p50_ms,
        p50_low_ms=p50_ms * 0.995,
        p50_high_ms=p50_ms * 1.005,
        p90_ms=p50_ms * 1.01,
        p95_ms=p50_ms * 1.01,
        p99_ms=None,
    )
    memory = None if peak_rss_bytes is None else Memory(peak_rss_bytes, 10_000_000, 40_000_000, 9_000_000)
    ok = outcome is Outcome.OK
    return Report(
        id=digest(variant.id + device + str(p50_ms)),
        variant_id=variant.id,
        variant_name=variant.name,
        device=device,
        profile="box",
        runtime="onnxruntime",
        runtime_version="1.31.1",
        outcome=outcome,
        detail=detail,
        verdict=verdict,
        reasons=reasons,
        metrics=Metrics(latency, memory, None, absent or {"energy": "no sensor"}) if ok else Metrics(absent={}),
        conditions=make_conditions(*(make_repetition(p50_ms * k) for k in (0.998, 1.0, 1.002)), emulated=emulated),
        max_output_error=1e-6,
        agent_sha256=digest("agent"),
        measured_at="2026-01-01T00:00:00.000+00:00",
    )
