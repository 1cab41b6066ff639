from __future__ import annotations

import re

import pytest

from edgedeploy.board.android import parse_getprop, phone_name
from edgedeploy.errors import AgentError, BoardError
from edgedeploy.profiling.native_conditions import parse_facts, parse_snapshot
from edgedeploy.profiling.native_output import parse_benchmark_model, parse_perf_test
from tests.boards import samples

TFLITE = samples.text("x86-64", "benchmark_model.txt")
ONNX = samples.text("x86-64", "onnxruntime_perf_test.txt")
ROWS = samples.text("x86-64", "onnxruntime_perf_test_rows.txt")


def test_benchmark_model_is_read() -> None:
    run = parse_benchmark_model(TFLITE)
    assert (run.init_ns, run.first_inference_ns) == (390_000, 481_000)
    assert (run.warm_up_runs, run.runs, run.samples_ns) == (3820, 5119, (123_000,))
    assert (run.min_ns, run.max_ns, run.mean_ns, run.p95_ns) == (120_000, 11_840_000, 130_225, 143_000)
    assert (run.peak_rss_bytes, run.rss_over_start_bytes) == (None, round(3.85156 * 2**20))
    assert not run.keeps_samples


def test_memory_is_read() -> None:
    run = parse_benchmark_model(samples.text("x86-64", "benchmark_model_memory.txt"))
    assert (run.peak_rss_bytes, run.rss_over_start_bytes) == (round(10.5195 * 2**20), round(3.71875 * 2**20))
    assert (run.warm_up_runs, run.runs, run.samples_ns, run.min_ns, run.max_ns) == (1, 1, (137_000,), 137_000, 137_000)


def test_memory_that_is_not_told_is_none() -> None:
    run = parse_benchmark_model(re.sub(r"INFO: (Memory|Overall).*\n", "", TFLITE))
    assert (run.peak_rss_bytes, run.rss_over_start_bytes) == (None, None)


def test_runs_that_all_took_the_same_are_read() -> None:
    text = samples.text("x86-64", "benchmark_model_same.txt")
    assert "count=2 curr=0(all same) p5=0 median=0 p95=0" in text
    run = parse_benchmark_model(text.replace("=0", "=7"))
    assert (run.runs, run.samples_ns, run.min_ns, run.max_ns, run.p95_ns) == (2, (7_000,), 7_000, 7_000, 7_000)


def test_older_benchmark_model_tells_no_median() -> None:
    with pytest.raises(BoardError, match="printed no median, as older releases do not"):
        parse_benchmark_model(samples.text("x86-64", "benchmark_model_old.txt"))


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
        (TFLITE.replace("median=123", "median=-123"), "where a time must be"),
        (TFLITE.replace("median=123", "median=nan"), "where a time must be"),
        (TFLITE.replace("Init: 390", "Init: 4e99"), "where a time must be"),
    ],
)
def test_benchmark_model_that_cannot_be_read(text: str, complaint: str) -> None:
    with pytest.raises(AgentError, match=complaint):
        parse_benchmark_model(text)


def test_perf_test_is_read() -> None:
    run = parse_perf_test(ONNX, ROWS)
    assert (run.init_ns, run.runs) == (5_271_850, 200)
    assert (run.samples_ns[:3], run.samples_ns[48]) == ((34_051, 29_754, 28_973), 1_728_220)
    assert (run.min_ns, run.max_ns) == (28_372, 1_728_220)
    assert (run.peak_rss_bytes, run.rss_over_start_bytes, run.keeps_samples) == (29_233_152, None, True)


def test_first_inference_of_no_whole_millisecond_is_not_known() -> None:
    assert parse_perf_test(ONNX, ROWS).first_inference_ns is None
    assert parse_perf_test(ONNX.replace("cost: 0 ms", "cost: 12 ms"), ROWS).first_inference_ns == 12_000_000


def test_perf_test_with_no_space_after_colons_and_statistics_in_its_file_is_read_too() -> None:
    older = ONNX.replace("cost: ", "cost:").replace("size: ", "size:")
    assert parse_perf_test(older, ROWS + "\nMin Latency: 0.1 s\n") == parse_perf_test(ONNX, ROWS)


@pytest.mark.parametrize("rows", ["", "Min Latency: 0.1 s\n", ".,-1,2,3,4\n"])
def test_perf_test_that_wrote_no_runs(rows: str) -> None:
    with pytest.raises(AgentError, match="onnxruntime_perf_test wrote no file with the times of its runs"):
        parse_perf_test(ONNX, rows)


@pytest.mark.parametrize("lacking", ["Session creation", "First inference"])
def test_older_perf_test_does_not_tell_all(lacking: str) -> None:
    with pytest.raises(BoardError, match=r"onnxruntime_perf_test did not tell .*, as older releases do not"):
        parse_perf_test(ONNX.replace(lacking, "Total"), ROWS)


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
