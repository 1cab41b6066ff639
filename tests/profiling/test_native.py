"""Native runners over adb: the phone, its shell and its files are real, the runners are scripts that stand in."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgedeploy.board.bare import MAX_ROWS, BareBoard, Wanted, open_any_board
from edgedeploy.board.runners import Runner
from edgedeploy.errors import BoardError, LeaseError, TransferError, TransportError
from edgedeploy.profiling.modes import Mode
from edgedeploy.profiling.native import profile_natively
from edgedeploy.records import (
    Artifact,
    Device,
    DeviceProfile,
    Format,
    Outcome,
    Precision,
    Report,
    Snapshot,
    Target,
    Variant,
    Verdict,
)
from tests.boards import samples
from tests.phones import a_phone
from tests.support.records import make_variant
from tools.adbd import SERIAL, Phone

SHORT = Mode("smoke", min_runs=64, min_seconds=0.2, repetitions=3)
BENCHMARK_MODEL = f"""#!/bin/sh
[ -s model.tflite ] || exit 9
case " $* " in
*" --report_peak_memory_footprint=true "*) cat <<'END' ;;
{samples.text("x86-64", "benchmark_model_memory.txt")}
END
*) cat <<'END' ;;
{samples.text("x86-64", "benchmark_model.txt")}
END
esac
"""
PERF_TEST = f"""#!/bin/sh
[ -s model.onnx ] || exit 9
cat <<'END'
{samples.text("x86-64", "onnxruntime_perf_test.txt")}
END
n=0
while [ $n -lt 64 ]; do echo "work,0.00025,27112448,11,$n" >>rows.csv; n=$((n + 1)); done
"""
TFLITE = make_variant("small-tflite-fp32", target=Target(Format.TFLITE, Precision.FP32))
ONNX = make_variant("small-onnx-fp32", target=Target(Format.ONNX, Precision.FP32))


@pytest.fixture
def kind() -> DeviceProfile:
    return DeviceProfile("here", "this machine", platform.machine(), (), (), 1 << 30, (), ("adb",))


@pytest.fixture
def device(phone: Phone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    monkeypatch.setenv("ADB_SERVER_SOCKET", phone.environment["ADB_SERVER_SOCKET"])
    return bare(tmp_path / "the root")


@pytest.fixture
def board(device: Device, kind: DeviceProfile) -> Iterator[BareBoard]:
    with open_any_board(device, kind, Path()) as board:
        assert isinstance(board, BareBoard)
        yield board


def bare(root: Path) -> Device:
    """The phone, without a Python."""
    return Device("phone", "here", f"adb://{SERIAL}", root=str(root), python="/none/python3")


def wanted(folder: Path, place: str, content: str, *, executable: bool = False) -> Wanted:
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    source = folder / f"source-{sha256[:12]}"
    source.write_text(content)
    return Wanted(sha256, source, place.format(sha256), executable)


def failing(what: str) -> str:
    """Shell that says what a real benchmark_model said as it failed."""
    return f"cat <<'END' >&2\n{samples.text('x86-64', f'benchmark_model_{what}.txt')}END\n"


def prepared(board: BareBoard, folder: Path, script: str, variant: Variant) -> tuple[Variant, dict[Format, Runner]]:
    """The variant and a runner for it, both on the board."""
    tflite = variant.target.format is Format.TFLITE
    runner = Runner("ab" * 32, "benchmark_model" if tflite else "onnxruntime_perf_test", "x86_64", {"tool": "cd" * 32})
    model = wanted(folder, "objects/sha256/{}", f"the model {variant.name}")
    board.push([model, wanted(folder, f"runtimes/{runner.id}/tool", script, executable=True)])
    return replace(variant, artifact=Artifact(model.sha256, variant.artifact.format, 9)), {
        variant.target.format: runner
    }


def measure(
    board: BareBoard, device: Device, kind: DeviceProfile, folder: Path, script: str, variant: Variant
) -> Report:
    variant, runners = prepared(board, folder, script, variant)
    [report] = profile_natively(board, device, kind, [variant], runners, mode=SHORT)
    assert not list(Path(board.root, "tmp").iterdir())
    return report


def test_benchmark_model_becomes_a_report(
    board: BareBoard, device: Device, kind: DeviceProfile, tmp_path: Path
) -> None:
    report = measure(board, device, kind, tmp_path, BENCHMARK_MODEL, TFLITE)
    assert (report.outcome, report.verdict, report.runtime) == (Outcome.OK, Verdict.SUSPECT, "benchmark_model")
    latency, memory = report.metrics.latency, report.metrics.memory
    assert latency is not None
    assert memory is not None
    assert (latency.p50_ms, latency.p90_ms, latency.p95_ms, latency.p99_ms) == (0.123, None, 0.143, None)
    assert (latency.runs, latency.init_ms, latency.first_inference_ms) == (3 * 5119, 0.39, 0.481)
    assert (memory.peak_rss_bytes, memory.peak_rss_over_runtime_bytes) == (
        round(10.5195 * 2**20),
        round(3.71875 * 2**20),
    )
    assert [len(repetition.samples_ns) for repetition in report.conditions.repetitions] == [1, 1, 1]
    assert report.conditions.repetitions[0].before.load_1m is not None
    told = "; ".join(report.reasons)
    for unknown in ("outputs were not compared", "keeps no raw samples", "warm-up converged is not known"):
        assert unknown in told
    assert report.max_output_error is None
    assert set(report.metrics.absent) == {"energy", "p90"}


def test_perf_test_becomes_a_report_with_raw_samples(
    board: BareBoard, device: Device, kind: DeviceProfile, tmp_path: Path
) -> None:
    report = measure(board, device, kind, tmp_path, PERF_TEST, ONNX)
    latency, memory = report.metrics.latency, report.metrics.memory
    assert latency is not None
    assert memory is not None
    assert (report.verdict, latency.runs, latency.p50_ms, latency.p90_ms) == (Verdict.SUSPECT, 192, 0.25, 0.25)
    assert (memory.peak_rss_bytes, memory.peak_rss_over_runtime_bytes) == (29_233_152, None)
    assert latency.first_inference_ms is None
    assert "tells whole milliseconds" in report.metrics.absent["first inference"]
    assert "keeps no raw samples" not in "; ".join(report.reasons)


def test_runs_of_a_void_repetition_do_not_count(
    board: BareBoard, device: Device, kind: DeviceProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot = iter([True, *[False] * 5])
    monkeypatch.setattr(
        "edgedeploy.profiling.native.parse_snapshot", lambda _: Snapshot(throttled=0x4 if next(hot) else None)
    )
    report = measure(board, device, kind, tmp_path, PERF_TEST.replace("-lt 64", "-lt 30"), ONNX)
    assert report.verdict is Verdict.SUSPECT
    assert report.reasons[0].startswith("1 of 3 repetitions void")
    assert "60 runs are too few, 64 are needed" in report.reasons
    assert report.metrics.latency is not None
    assert report.metrics.latency.runs == 60


@pytest.mark.fault
@pytest.mark.parametrize(
    ("script", "outcome", "detail"),
    [
        (f"{failing('custom_operator')}exit 1", "unsupported", "exit code 1: .*unresolved custom op: Frobnicate"),
        (f"{failing('no_memory')}kill -ABRT $$", "out_of_memory", "killed by signal 6: .*bad_alloc"),
        ("kill -KILL $$", "crashed", "^killed by signal 9$"),
        ("kill -SEGV $$", "crashed", "^killed by signal 11$"),
        ("exit 3", "crashed", "^exit code 3$"),
        ("exit 0", "crashed", "printed no timings"),
        ("exec sleep 60", "timeout", "gave no answer within 1 s"),
        ("exec cat /dev/zero", "error", "wrote more than 64 MiB"),
    ],
)
def test_runner_that_fails_is_a_result(
    board: BareBoard,
    device: Device,
    kind: DeviceProfile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    outcome: str,
    detail: str,
) -> None:
    """A variant on which a native runner fails, hangs or floods is an outcome of its own, or an error in time."""
    monkeypatch.setattr("edgedeploy.profiling.native.RUN_TIMEOUT_S", 1.0 if outcome == "timeout" else 60.0)
    if outcome == "error":
        with pytest.raises(TransferError, match=detail):
            measure(board, device, kind, tmp_path, f"#!/bin/sh\n{script}\n", TFLITE)
        return
    variant, runners = prepared(board, tmp_path, f"#!/bin/sh\n{script}\n", TFLITE)
    [report] = profile_natively(board, device, kind, [variant], runners, mode=SHORT)
    assert (report.outcome, report.verdict) == (Outcome(outcome), Verdict.INVALID)
    assert report.metrics.latency is None
    assert re.search(detail, report.detail)


@pytest.mark.fault
@pytest.mark.parametrize(
    "script",
    [
        "#!/none/interpreter\n",
        "not a program\0\1\2",
        f"#!/bin/sh\ncat <<'END' >&2\n{samples.text('x86-64', 'onnxruntime_perf_test_other_library.txt')}END\nexit 1\n",
    ],
)
def test_runner_that_does_not_start_is_an_error_of_the_board(
    board: BareBoard, device: Device, kind: DeviceProfile, tmp_path: Path, script: str
) -> None:
    """A runner built for another system is an error that names it, and no variant's result."""
    with pytest.raises(BoardError, match=r"^phone: the native runner tool does not start there: .*--beside"):
        measure(board, device, kind, tmp_path, script, TFLITE)


@pytest.mark.fault
def test_runner_that_does_not_take_the_options_is_an_error_of_the_board(
    board: BareBoard, device: Device, kind: DeviceProfile, tmp_path: Path
) -> None:
    """A release of a runner that does not know an option is an error that names them, and no variant's result."""
    script = f"#!/bin/sh\ncat <<'END'\n{samples.text('x86-64', 'onnxruntime_perf_test_usage.txt')}END\nexit 255\n"
    with pytest.raises(BoardError, match=r"^phone: the native runner tool does not take .* -I .*invalid option"):
        measure(board, device, kind, tmp_path, script, ONNX)


@pytest.mark.fault
def test_older_runner_is_an_error_of_the_board(
    board: BareBoard, device: Device, kind: DeviceProfile, tmp_path: Path
) -> None:
    """A release of a runner that tells too little is an error that says so, and no variant's result."""
    script = f"#!/bin/sh\ncat <<'END'\n{samples.text('x86-64', 'benchmark_model_old.txt')}END\n"
    with pytest.raises(BoardError, match=r"^phone: benchmark_model printed no median, .*`edgedeploy runtimes add`"):
        measure(board, device, kind, tmp_path, script, TFLITE)


def test_median_of_few_whole_microseconds_says_so(
    board: BareBoard, device: Device, kind: DeviceProfile, tmp_path: Path
) -> None:
    quick = re.sub(r"median=\d+", "median=19", BENCHMARK_MODEL)
    told = "benchmark_model counts whole microseconds, and p50 is only 19 of them"
    assert told in measure(board, device, kind, tmp_path, quick, TFLITE).reasons
    assert told not in measure(board, device, kind, tmp_path, BENCHMARK_MODEL, TFLITE).reasons


@pytest.mark.fault
def test_object_that_is_gone_is_an_error_of_the_board(
    board: BareBoard, device: Device, kind: DeviceProfile, tmp_path: Path
) -> None:
    """A file that was cleared away before a native runner read it is an error of the board, and no variant's result."""
    variant, runners = prepared(board, tmp_path, BENCHMARK_MODEL, TFLITE)
    Path(board.root, "objects", "sha256", variant.artifact.sha256).unlink()
    with pytest.raises(BoardError, match=r"^phone: [0-9a-f]{64}\.tflite does not lie there any more; push it again"):
        list(profile_natively(board, device, kind, [variant], runners, mode=SHORT))
    assert not list(Path(board.root, "tmp").iterdir())


def test_runner_is_told_to_send_nothing_to_its_maker(
    board: BareBoard, device: Device, kind: DeviceProfile, tmp_path: Path
) -> None:
    script = PERF_TEST.replace("[ -s model.onnx ]", '[ "$ORT_DISABLE_TELEMETRY" = 1 ]')
    assert measure(board, device, kind, tmp_path, script, ONNX).outcome is Outcome.OK


def test_rows_beyond_a_million_are_left_on_the_board(
    board: BareBoard, device: Device, kind: DeviceProfile, tmp_path: Path
) -> None:
    """A net of a microsecond would else make more than one answer of a board may hold."""
    many = "yes .,1.25e-06,29233152,62,0 | head -n 2500000 >rows.csv\n"
    report = measure(board, device, kind, tmp_path, PERF_TEST.partition("n=0")[0] + many, ONNX)
    assert report.metrics.latency is not None
    assert (report.metrics.latency.runs, report.metrics.latency.p50_ms) == (3 * MAX_ROWS, 0.00125)


@pytest.mark.fault
def test_board_that_is_held_is_not_measured(
    board: BareBoard, device: Device, kind: DeviceProfile, tmp_path: Path
) -> None:
    """While another job holds the board's lock, a native measurement is a LeaseError."""
    import fcntl

    with Path(board.root, "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LeaseError, match="another job holds the board"):
            measure(board, device, kind, tmp_path, BENCHMARK_MODEL, TFLITE)


@pytest.mark.fault
def test_phone_unplugged_while_it_measures(
    kind: DeviceProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A phone that goes away while it measures is an error of the link, no variant's result."""
    with a_phone() as own:
        monkeypatch.setenv("ADB_SERVER_SOCKET", own.environment["ADB_SERVER_SOCKET"])
        device = bare(tmp_path / "root")
        with open_any_board(device, kind, Path()) as board:
            assert isinstance(board, BareBoard)
            threading.Timer(1.0, own.kill_adbd).start()
            started = time.monotonic()
            with pytest.raises(TransportError, match=r"^phone: the link was lost"):
                measure(board, device, kind, tmp_path, "#!/bin/sh\nsleep 30\n", TFLITE)
            assert time.monotonic() - started < 20


def test_what_lies_there_is_not_sent_again(board: BareBoard, tmp_path: Path) -> None:
    files = [wanted(tmp_path, "objects/sha256/{}", "one"), wanted(tmp_path, "runtimes/x/it's", "two", executable=True)]
    assert board.push(files, dry_run=True).sent == (files[0].sha256, files[1].sha256)
    first, second = board.push(files), board.push(files)
    assert (len(first.sent), len(second.sent), len(second.present)) == (2, 0, 2)
    assert os.access(f"{board.root}/runtimes/x/it's", os.X_OK)
    Path(board.root, files[0].place).write_text("bad")
    assert board.push(files).sent == (files[0].sha256,)
    assert not list(Path(board.root, "tmp").iterdir())


@pytest.mark.fault
def test_file_that_changed_on_the_way_gets_no_name(board: BareBoard, tmp_path: Path) -> None:
    """Without an agent too, a file whose bytes changed is refused on the board itself, and nothing of it stays."""
    good, bad = (wanted(tmp_path, "objects/sha256/{}", content) for content in ("good", "bad"))
    bad.source.write_text("BAD")
    with pytest.raises(TransferError, match=r"^phone: 2 files did not arrive whole: .*SHA-256"):
        board.push([good, bad])
    assert not list(Path(board.root, "objects", "sha256").iterdir())
    assert not list(Path(board.root, "tmp").iterdir())
