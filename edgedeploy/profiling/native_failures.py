"""Reads why a native runner failed out of its exit status and its words, as real ones give them."""

from __future__ import annotations

import re

from edgedeploy.records import Outcome

# A shell says 128 + N where signal N ended the program; onnxruntime_perf_test itself ends with 255.
_SIGNALS = range(129, 128 + 65)
_LONGEST = 2000

# "Failed to allocate" alone will not do: "Failed to allocate tensors!" is what follows any operator that was refused.
_NO_MEMORY = (
    *("bad_alloc", "Out of memory", "out of memory", "Failed to allocate memory", "Cannot allocate memory"),
    "mmap error: 12",  # Abseil's allocator; ENOMEM
)
# TensorFlow Lite's interpreter and the tool around it, then ONNX Runtime, whose messages do not name their status code.
_REFUSED = (
    *("Didn't find op", "unresolved custom op", "builtin_code out of range", "failed to prepare", "failed to invoke"),
    *("Failed to load model", "Failed to initialize the interpreter", "Failed to allocate tensors!"),
    *("Load model from", "Could not find an implementation", "Run failed:"),
)
# Of any release, and what older and newer ones say to an option that they do not have.
_USAGE = ("perf_test [options...] model_path", "onnxruntime_perf_test --help", "Unknown command line flag")

# What says nothing of a failure: remarks, stack frames, empty lines, and what a shell says of a child's end. All
# repeats are bounded, as a board may say anything.
_REMARK = re.compile(
    r"(?:INFO|WARN|WARNING|VERBOSE): |Setting |Disabling |Overriding |this type of data |Stacktrace:$"
    r"|\S{1,200}\(\S{0,200}\) \[0x|\S{0,9}\d{4}-\d\d-\d\d \S{1,30} \[[VIW]:|\S?\[[0-9;]{0,9}m$"
    r"|(?:Killed|Terminated|Aborted|Segmentation fault)\b|$"
)
_SEVERE = re.compile(r"(?:ERROR|FATAL): ")
_LOGGED = re.compile(r"\S{0,9}\d{4}-\d\d-\d\d \S{1,30} \[[EF]:[^\]]*\] ")
# ONNX Runtime puts the place in its source before the reason, with the whole signature of the function.
_PLACE = re.compile(r"[^\s:]*\.(?:cc|h):\d+ [^()]*\((?:[^()]|\([^()]*\))*\)(?: const)? ")


def failure(code: int, text: str) -> tuple[Outcome, str]:
    """The outcome of a run that ended with an exit status other than 0, and how it ended in its own words."""
    how = f"killed by signal {code - 128}" if code in _SIGNALS else f"exit code {code}"
    told = complaint(text)
    detail = f"{how}: {told}" if told else how
    if any(word in text for word in _NO_MEMORY):
        return Outcome.OUT_OF_MEMORY, detail
    refused = any(word in text for word in _REFUSED)
    return (Outcome.UNSUPPORTED if refused and code not in _SIGNALS else Outcome.CRASHED), detail


def complaint(text: str) -> str:
    """The line that tells most of what went wrong, or "".

    It is the first one: what follows says no more than that it failed, and what was buffered may come after it.
    """
    lines = [line for each in text.splitlines() if not _REMARK.match(line := each[:_LONGEST].strip())]
    first = next((line for line in lines if _SEVERE.match(line)), next(iter(lines), ""))
    return " ".join(_PLACE.sub("", _LOGGED.sub("", first)).split())[:300]


def does_not_start(code: int, text: str) -> bool:
    """Whether it was the loader that failed, and no line of the runner ever ran.

    glibc's ends with 127, but with 1 where a library is of another release, Android's with 1.
    """
    told = "CANNOT LINK EXECUTABLE" in text or re.search(r"version `[^']{1,99}' not found \(required by ", text)
    return code in {126, 127} or bool(code != 0 and told)


def is_usage(text: str) -> bool:
    """Whether a runner does not know an option that it was called with, and so is to blame itself."""
    return any(word in text for word in _USAGE)
