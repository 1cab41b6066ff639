"""What real native runners say when they fail, and what is made of it, by the captures of tests/boards/x86-64."""

from __future__ import annotations

import re
import time

import pytest

from edgedeploy.board.untrusted import plain
from edgedeploy.profiling.native_failures import complaint, does_not_start, failure, is_usage
from edgedeploy.records import Outcome
from tests.boards import samples

TFLITE, ONNX = "benchmark_model", "onnxruntime_perf_test"


def captured(name: str) -> tuple[int, str]:
    """The exit status, and the words as they come from a board."""
    status = re.search(r"Exit status (\d+)\.", samples.sources("x86-64")[name].source)
    return int(status[1]) if status else 0, plain(samples.text("x86-64", name))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("name", "outcome", "detail"),
    [
        (f"{TFLITE}_no_model", "unsupported", "exit code 1: ERROR: The model is not a valid Flatbuffer buffer"),
        (f"{TFLITE}_truncated", "unsupported", "exit code 1: ERROR: The model is not a valid Flatbuffer buffer"),
        (f"{TFLITE}_operator", "unsupported", "exit code 1: ERROR: Op builtin_code out of range: 250"),
        (f"{TFLITE}_operator_version", "unsupported", "exit code 1: ERROR: Didn't find op for builtin opcode"),
        (
            f"{TFLITE}_custom_operator",
            "unsupported",
            "exit code 1: ERROR: Encountered unresolved custom op: Frobnicate",
        ),
        (f"{TFLITE}_no_memory", "out_of_memory", "killed by signal 6: terminate called after .* 'std::bad_alloc'$"),
        (f"{TFLITE}_no_memory_at_first", "out_of_memory", r"killed by signal 6: \[low_level_alloc.*mmap error: 12"),
        (f"{TFLITE}_killed", "crashed", "killed by signal 9$"),
        (f"{ONNX}_truncated", "unsupported", "exit code 255: Failed to load model .* because protobuf parsing failed"),
        (f"{ONNX}_empty", "unsupported", "exit code 255: Load model from model.onnx failed:ModelProto does not have"),
        (
            f"{ONNX}_opset",
            "unsupported",
            "exit code 255: Load model from model.onnx failed:ONNX Runtime only .*Opset 99",
        ),
        (
            f"{ONNX}_ir_version",
            "unsupported",
            "exit code 255: .* failed:Unsupported model IR version: 99, max supported",
        ),
        (
            f"{ONNX}_operator",
            "unsupported",
            "exit code 255: .*No Op registered for Frobnicate with domain_version of 17",
        ),
        (f"{ONNX}_custom_operator", "unsupported", "exit code 255: .*Frobnicate.* is not a registered function/op"),
        (f"{ONNX}_no_kernel", "unsupported", r"exit code 255: Could not find an implementation for Conv\(11\) node"),
        (f"{ONNX}_graph", "unsupported", "exit code 255: .* failed:Invalid model. Node input 'z' is not a graph input"),
        (f"{ONNX}_no_memory", "out_of_memory", "exit code 255: std::bad_alloc$"),
        (f"{ONNX}_no_memory_to_run", "out_of_memory", "exit code 255: Non-zero status .* buffer of size 4294967296$"),
        (f"{ONNX}_killed", "crashed", "killed by signal 9$"),
    ],
)
def test_failure_of_a_real_runner(name: str, outcome: str, detail: str) -> None:
    """What benchmark_model and onnxruntime_perf_test really print when they fail becomes the outcome and its reason."""
    found, told = failure(*captured(f"{name}.txt"))
    assert found is Outcome(outcome)
    assert re.match(detail, told), told


def test_every_capture_of_a_failure_has_a_test() -> None:
    failed = {name for name in samples.sources("x86-64") if name.startswith((TFLITE, ONNX)) and captured(name)[0]}
    (marks,) = [mark for mark in test_failure_of_a_real_runner.pytestmark if mark.name == "parametrize"]  # type: ignore[attr-defined]
    assert failed == {f"{case[0]}.txt" for case in marks.args[1]} | {f"{ONNX}_usage.txt", f"{ONNX}_other_library.txt"}


def test_library_of_another_release_is_told_from_failure() -> None:
    assert does_not_start(*captured(f"{ONNX}_other_library.txt"))
    assert does_not_start(1, 'CANNOT LINK EXECUTABLE "./benchmark_model": library "libc++_shared.so" not found')
    others = [name for name in samples.sources("x86-64") if name.startswith((TFLITE, ONNX)) and "library" not in name]
    assert not any(does_not_start(*captured(name)) for name in others)


def test_usage_is_told_from_failure() -> None:
    assert is_usage(captured(f"{ONNX}_usage.txt")[1])
    assert is_usage("ERROR: Unknown command line flag 'I'\n")
    assert not any(is_usage(captured(name)[1]) for name in samples.sources("x86-64") if "usage" not in name)


@pytest.mark.parametrize(
    ("code", "text", "told"),
    [
        (1, "", "exit code 1"),
        (139, "WARNING: linker: something\nSegmentation fault\n", "killed by signal 11"),
        (1, "a line\nand another\n", "exit code 1: a line"),
        (1, "noise\nERROR: the reason\nERROR: Benchmarking failed.\n", "exit code 1: ERROR: the reason"),
        (200, "x" * 999, f"exit code 200: {'x' * 300}"),
    ],
)
def test_failure_that_says_less(code: int, text: str, told: str) -> None:
    assert failure(code, text) == (Outcome.CRASHED, told)


def test_signal_is_a_crash_whatever_was_said_before() -> None:
    assert failure(139, "ERROR: Node number 3 (X) failed to invoke.\n")[0] is Outcome.CRASHED


def test_remarks_alone_are_no_complaint() -> None:
    assert complaint(samples.text("x86-64", f"{TFLITE}.txt")) == ""


@pytest.mark.fault
@pytest.mark.parametrize("line", ["a" * 10**6, "2026-" * 10**5, "x.cc:1 (" * 10**5, "[0;" * 10**5, "f(" * 10**5])
def test_words_of_a_hostile_board_take_no_time(line: str) -> None:
    """What a board says to keep the reader of a runner's failure busy is read in no time all the same."""
    started = time.monotonic()
    assert len(failure(1, f"{line}\n" * 20)[1]) <= 320
    assert time.monotonic() - started < 5
