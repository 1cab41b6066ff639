from __future__ import annotations

import re

import pytest

from edgedeploy.board.android import parse_getprop, phone_name
from edgedeploy.errors import AgentError
from edgedeploy.profiling.native_conditions import parse_facts, parse_snapshot
from edgedeploy.profiling.native_output import parse_benchmark_model, parse_perf_test
from tests.boards import samples

TFLITE = samples.text("pixel-8", "benchmark_model.txt")
ONNX = samples.text("pixel-8", "onnxruntime_perf_test.txt")
ROWS = samples.text("pixel-8", "onnxruntime_perf_test_rows.txt")


def test_benchmark_model_is_read() -> None:
    run = parse_benchmark_model(TFLITE)
    assert (run.init_ns, run.first_inference_ns) == (4_207_000, 911_000)
    assert (run.warm_up_runs, run.runs, run.samples_ns) == (1874, 7541, (263_000,))
    assert (run.min_ns, run.max_ns, run.mean_ns, run.p95_ns) == (254_000, 1_204_100, 263_911, 276_000)
    assert (run.peak_rss_bytes, run.rss_over_start_bytes) == (int(9.75 * 2**20), int(4.25 * 2**20))
    assert not run.keeps_samples


def test_memory_that_is_not_told_is_none() -> None:
    run = parse_benchmark_model(re.sub(r"INFO: (Memory|Overall).*\n", "", TFLITE))
    assert (run.peak_rss_bytes, run.rss_over_start_bytes) == (None, None)


def test_lines_without_a_severity_are_read_too() -> None:
    assert parse_benchmark_model(TFLITE.replace("INFO: ", "")) == parse_benchmark_model(TFLITE)


def test_statistics_of_operators_are_not_taken_for_those_of_runs() -> None:
    more = (
        TFLITE + "\nTimings (microseconds): count=50 first=9 curr=9 min=9 max=9 avg=9 std=1\nMemory (bytes): count=0\n"
    )
    assert parse_benchmark_model(more) == parse_benchmark_model(TFLITE)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "printed no timings"),
        (TFLITE[:600], "printed no timings"),
        (re.sub(r" p5=\S+ median=\S+ p95=\S+", "", TFLITE), "printed no median, as older releases do not"),
        (TFLITE.replace("median=263", "median=-263"), "where a time must be"),
        (TFLITE.replace("median=263", "median=nan"), "where a time must be"),
        (TFLITE.replace("Init: 4207", "Init: 4e99"), "where a time must be"),
    ],
)
def test_benchmark_model_that_cannot_be_read(text: str, complaint: str) -> None:
    with pytest.raises(AgentError, match=complaint):
        parse_benchmark_model(text)


def test_perf_test_is_read() -> None:
    run = parse_perf_test(ONNX, ROWS)
    assert (run.init_ns, run.first_inference_ns, run.runs) == (10_201_600, 2_000_000, 4)
    assert run.samples_ns == (251_000, 249_750, 250_833, 252_417)
    assert (run.peak_rss_bytes, run.rss_over_start_bytes, run.keeps_samples) == (27_112_448, None, True)


def test_older_perf_test_is_read_too() -> None:
    older = ONNX.replace("cost: ", "cost:").replace("size: ", "size:").replace("cost total", "cost")
    assert parse_perf_test(older, ROWS + "\nMin Latency: 0.1 s\n") == parse_perf_test(ONNX, ROWS)


@pytest.mark.parametrize(
    ("text", "rows"),
    [("", ROWS), (ONNX, ""), (ONNX, "Min Latency: 0.1 s\n"), (ONNX.replace("First inference", "X"), ROWS)],
)
def test_perf_test_that_cannot_be_read(text: str, rows: str) -> None:
    with pytest.raises(AgentError, match="onnxruntime_perf_test did not tell"):
        parse_perf_test(text, rows)


@pytest.mark.parametrize(
    ("board", "name"),
    [("pixel-8", "Google Pixel 8, Android 14"), ("android-arm64", "Example Phone [2nd gen], Android 11")],
)
def test_phone_has_a_name(board: str, name: str) -> None:
    assert phone_name(parse_getprop(samples.text(board, "getprop.txt"))) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", ""),
        ("sh: getprop: not found\n", ""),
        ("[ro.product.manufacturer]: [OnePlus]\n[ro.product.model]: [ONEPLUS A6013]\n", "ONEPLUS A6013"),
        ("[ro.product.model]: [a\x1b[31mb]\r\n[ro.build.version.release]: [9]\r\n", "a?[31mb, Android 9"),
    ],
)
def test_odd_properties(text: str, name: str) -> None:
    assert phone_name(parse_getprop(text)) == name


def told(board: str) -> str:
    """What the script of a snapshot would print there, where everything may be read."""
    trees = [name for name in samples.sources(board) if name.endswith(".sysfs")]
    lines = [f"{path} = {value}" for name in trees for path, value in samples.tree(board, name).items() if value]
    available = re.search(r"MemAvailable:.*", samples.text(board, "meminfo.txt"))
    lines += ["/proc/loadavg = 1.52 1.40 1.11 2/4711 12345", f"/proc/meminfo = {available[0] if available else ''}"]
    return "\n".join(lines) + "\n"


def test_snapshot_of_a_phone() -> None:
    found = parse_snapshot(told("pixel-8"))
    assert set(found.governors) == {"sched_pixel"}
    assert found.frequencies_mhz[-1] == 1557.0
    assert found.load_1m == 1.52
    assert found.temperatures_c
    assert (found.battery_percent, found.charging) == (78.0, False)
    assert found.free_memory_bytes is not None


def test_battery_that_only_dumpsys_tells_of() -> None:
    charged = parse_snapshot(samples.text("android-arm64", "dumpsys_battery.txt"))
    used = parse_snapshot(samples.text("pixel-8", "dumpsys_battery.txt"))
    assert (charged.battery_percent, charged.charging) == (100.0, True)
    assert (used.battery_percent, used.charging) == (78.0, False)


def test_snapshot_of_a_board_that_tells_nothing() -> None:
    found = parse_snapshot("")
    assert (found.governors, found.temperatures_c, found.load_1m, found.battery_percent) == ((), {}, None, None)


def test_facts_of_a_phone() -> None:
    text = "cpus=9\n" + samples.text("pixel-8", "getprop.txt") + "cpuinfo=\n" + samples.text("pixel-8", "cpuinfo.txt")
    found = parse_facts(text, "aarch64")
    assert (found.cpus, found.phone, found.emulated) == (9, "Google Pixel 8, Android 14", False)
    assert "asimddp" in found.isa
    assert parse_facts(text.replace("cpus=9", "cpus="), "aarch64").cpus > 1
