"""Conditions are told in few words, and what a board does not tell is named instead of guessed."""

from __future__ import annotations

from dataclasses import replace

from edgedeploy.records import Report, Snapshot
from edgedeploy.report.conditions import circumstances, nodes, shared_facts, told_columns
from edgedeploy.report.view import Row
from tests.report.synthetic import KITCHEN, measured, variants


def reported(*snapshots: Snapshot, **conditions: object) -> Report:
    report = measured(variants()[0], KITCHEN, 1.0)
    first = report.conditions.repetitions[0]
    pairs = zip(snapshots[::2], snapshots[1::2], strict=True)
    repetitions = tuple(replace(first, before=before, after=after) for before, after in pairs)
    return replace(report, conditions=replace(report.conditions, repetitions=repetitions, **conditions))  # type: ignore[arg-type]


def row(report: Report) -> Row:
    return Row(report.variant_name, None, report, None, winner=False, why="")


def test_a_mute_board_tells_nothing() -> None:
    assert circumstances(reported(Snapshot(), Snapshot())) == {}
    assert circumstances(reported()) == {}
    told, untold = told_columns([row(reported())])
    assert told == []
    assert "Temperature" in untold


def test_first_to_last_over_all_repetitions() -> None:
    cool = Snapshot(("ondemand",), (600.0, 1500.0), {"gpu": 60.0, "cpu": 50.0}, 0x0, 0.1, 9_000_000, 80.0, False)
    hot = Snapshot(("performance",), (1800.0,), {"gpu": 61.0, "cpu": 72.0}, 0x4, 2.5, 4_000_000, 78.0, True)
    between = replace(cool, throttled=0x50000)
    assert circumstances(reported(cool, between, between, hot)) == {
        "Temperature": "50.0 → 72.0 °C (cpu)",
        "Governor": "ondemand, performance",
        "Frequency": "600 to 1,800 MHz",
        "Throttled": "0x50004",
        "Load, 1 min": "0.100 → 2.50",
        "Least free memory": "4.00 MB",
        "Battery": "80.0 → 78.0 %, charging",
    }


def test_a_board_that_tells_only_once_is_not_read_as_zero() -> None:
    assert circumstances(reported(Snapshot(), Snapshot(load_1m=0.5)))["Load, 1 min"] == "0.500"
    assert circumstances(reported(Snapshot(throttled=0), Snapshot()))["Throttled"] == "no"
    assert circumstances(reported(Snapshot(cooling={"Processor": 0}), Snapshot()))["Throttled"] == "no"
    slowed = reported(Snapshot(throttled=0x4), Snapshot(cooling={"cpufreq-cpu4": 0, "cpufreq-cpu0": 2}))
    assert circumstances(slowed)["Throttled"] == "0x4, cpufreq-cpu0"


def test_nodes_are_told_most_first() -> None:
    assert nodes(reported(placement={"cpu": 2, "xnnpack": 9})) == "9 on xnnpack, 2 on cpu"
    assert nodes(reported()) == ""


def test_shared_facts_list_every_value_once() -> None:
    one = reported(accelerator="gpu", accelerator_used="cpu")
    other = replace(reported(threads=4), runtime="ai_edge_litert", runtime_version="2.3.0")
    other = replace(other, conditions=replace(other.conditions, isa=("asimd", "asimddp")))
    facts = dict(shared_facts([row(one), row(other), row(other)]))
    assert facts["Instruction set"] == "asimd asimddp"
    assert facts["Accelerator"] == "cpu (asked for gpu), cpu"
    assert facts["Runtime"] == "onnxruntime 1.31.1, ai_edge_litert 2.3.0"
    assert facts["Threads"] == "1, 4"
    assert facts["Agent (SHA-256)"] == one.agent_sha256
    assert shared_facts([]) == []


def test_a_part_of_a_latency_that_is_not_known_says_why() -> None:
    report = reported()
    few = row(report)
    assert few.part("p90", 1.25) == "1.25 ms"
    assert report.metrics.latency is not None
    assert few.part("p90", None) == f"not known: {report.metrics.latency.runs} runs are too few"
    metrics = replace(report.metrics, absent={"p90": "benchmark_model tells none"})
    assert row(replace(report, metrics=metrics)).part("p90", None) == "not known: benchmark_model tells none"
