"""A made-up but plausible session: 12 variants on two boards, so that the page has all it must show."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from edgedeploy.records import (
    Choice,
    Device,
    Energy,
    Format,
    Metrics,
    Outcome,
    PassSettings,
    Precision,
    Rejection,
    Repetition,
    Report,
    Snapshot,
    Target,
    Variant,
    Verdict,
)
from tests.support.records import make_report, make_variant

NO_SENSOR = "the board has no power sensor; put a meter in its supply"
THROTTLED = "the CPU was throttled in 1 of 9 repetitions"
STRAYED = "outputs stray by 0.31 of their range, tolerated 0.05"
PRUNED = (PassSettings("prune_channels", 1, {"ratio": 0.3, "round_to": 8}),)

KITCHEN = Device("kitchen", "pi4", "ssh://pi@kitchen")
ORIN = Device("orin", "jetson-orin-nano", "ssh://orin")

P50_MS = {
    "plain-onnx-fp32": 4.31, "plain-onnx-fp16": 5.02, "plain-onnx-int8": 1.72,
    "plain-tflite-fp32": 3.9, "plain-tflite-fp16": 3.95, "plain-tflite-int8": 1.31,
    "pruned-onnx-fp32": 2.44, "pruned-onnx-fp16": 2.9, "pruned-onnx-int8": 1.12,
    "pruned-tflite-fp32": 2.2, "pruned-tflite-fp16": 2.21, "pruned-tflite-int8": 0.84,
}  # fmt: skip


@dataclass(frozen=True)
class Page:
    """The arguments of `write_report` but for its path."""

    title: str = "digits on two boards"
    variants: tuple[Variant, ...] = ()
    reports: tuple[Report, ...] = ()
    choices: tuple[Choice, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
    devices: tuple[Device, ...] = ()

    def arguments(self) -> dict[str, Any]:
        return dict(vars(self))


def two_boards() -> Page:
    """`kitchen` has a winner, a mismatch, a suspect and a crash; `orin` a sensor and nothing that qualifies."""
    made = variants()
    return Page(
        variants=made,
        reports=(*map(on_kitchen, made[:-2]), on_kitchen(made[-1]), *map(on_orin, made[:3]), *map(on_orin, made[6:9])),
        choices=(choice_on_kitchen(made), choice_on_orin(made)),
        failures=(("clustered-onnx-int8", "no ONNX operator for aten::_foo; leave out the pass `cluster`"),),
        devices=(KITCHEN, ORIN),
    )


def variants() -> tuple[Variant, ...]:
    """Both formats and all precisions, plain and pruned; the last but one was never measured on `kitchen`."""
    loss = {Precision.FP32: 0.0, Precision.FP16: 0.0004, Precision.INT8: 0.007}
    share = {Precision.FP32: 1.0, Precision.FP16: 0.52, Precision.INT8: 0.3}
    made = []
    for recipe, quality, size_bytes in (("plain", 0.978, 559_208), ("pruned", 0.967, 301_440)):
        for target in (Target(kind, precision) for kind in Format for precision in loss):
            variant = make_variant(
                f"{recipe}-{target}",
                target=target,
                size_bytes=int(size_bytes * share[target.precision]),
                quality=quality - loss[target.precision],
                drop=0.982 - quality + loss[target.precision],
            )
            made.append(replace(variant, passes=PRUNED if recipe == "pruned" else (), parameters=132_874))
    return tuple(made)


def on_kitchen(variant: Variant) -> Report:
    p50_ms = P50_MS[variant.name]
    if variant.name == "plain-onnx-fp16":
        crashed = measured(
            variant, KITCHEN, p50_ms, outcome=Outcome.CRASHED, detail="signal 11", verdict=Verdict.INVALID
        )
        absent = dict.fromkeys(("latency", "memory", "energy"), "the process ended by signal 11")
        return replace(crashed, metrics=Metrics(absent=absent))
    if variant.name == "pruned-onnx-int8":
        strays = measured(variant, KITCHEN, p50_ms)
        return replace(strays, outcome=Outcome.MISMATCH, detail=STRAYED, verdict=Verdict.INVALID)
    if variant.name == "plain-tflite-int8":
        return measured(variant, KITCHEN, p50_ms, verdict=Verdict.SUSPECT, reasons=(THROTTLED,))
    return measured(variant, KITCHEN, p50_ms)


def on_orin(variant: Variant) -> Report:
    report = measured(variant, ORIN, P50_MS[variant.name] * 0.4)
    energy = Energy(P50_MS[variant.name] * 3.1, 1.2, 4.9, 2.1, "ina3221", "module", 98.0, 0.99)
    return replace(report, metrics=replace(report.metrics, energy=energy, absent={}))


def measured(variant: Variant, device: Device, p50_ms: float, **changes: Any) -> Report:
    report = make_report(variant, p50_ms, device=device.name, absent={"energy": NO_SENSOR}, **changes)
    conditions = replace(report.conditions, repetitions=tuple(repetition(p50_ms, seed) for seed in range(3)))
    return replace(report, profile=device.profile, conditions=conditions)


def repetition(p50_ms: float, seed: int) -> Repetition:
    draw = random.Random(seed)
    before = Snapshot(("performance",), (1800.0,), {"cpu-thermal": 48.3 + seed}, 0, 0.31, 3_100_000_000)
    after = replace(before, temperatures_c={"cpu-thermal": 51.7 + seed}, load_1m=0.94)
    samples = tuple(int(p50_ms * 1e6 * draw.lognormvariate(0, 0.06)) for _ in range(128))
    return Repetition(int(p50_ms * 4e7), int(p50_ms * 2.5e6), 62, True, samples, before, after)


def choice_on_kitchen(made: tuple[Variant, ...]) -> Choice:
    winner = made[-1]
    reasons = {
        "plain-tflite-int8": "p50_ms 1.31 against 0.84 of pruned-tflite-int8",
        "plain-onnx-fp32": "p50_ms 4.31 against 0.84 of pruned-tflite-int8",
        "pruned-onnx-int8": f"mismatch: {STRAYED}",
        "plain-onnx-fp16": "crashed: signal 11",
        "pruned-tflite-fp16": "not measured on kitchen: run `edgedeploy profile --device kitchen`",
    }
    dominated = "dominated by plain-tflite-int8: p50_ms 1.72 against 1.31"
    return Choice(
        device="kitchen",
        profile="pi4",
        objective="latency",
        winner=winner.name,
        winner_id=winner.id,
        ranking=(winner.name, "plain-tflite-int8", "plain-onnx-fp32"),
        rejected=tuple(Rejection(v.name, reasons.get(v.name, dominated)) for v in made if v is not winner),
        verdict=Verdict.SUSPECT,
        reasons=(THROTTLED,),
        confidence=0.974,
    )


def choice_on_orin(made: tuple[Variant, ...]) -> Choice:
    over = "accuracy 0.9600 is under the goal's min_quality = 0.99; energy 5.3 mJ is over the goal's max_energy_mj = 2"
    cannot = "no runtime of the profile jetson-orin-nano runs {}"
    rejected = (Rejection(v.name, over if v.target.format is Format.ONNX else cannot.format(v.target)) for v in made)
    return Choice("orin", "jetson-orin-nano", "energy", None, None, (), tuple(rejected), None)
