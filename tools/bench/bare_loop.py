"""What the agent is held against: a plain onnxruntime loop that does nothing but time its calls.

`python bare_loop.py MODEL INPUT.npy WARM_UP_SECONDS MIN_RUNS MIN_SECONDS` prints the median in nanoseconds.
"""

from __future__ import annotations

import os
import statistics
import sys
import time

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as the agent does; it is read at the import
import onnxruntime


def main(model: str, example: str, warm_up_s: float, min_runs: int, min_s: float) -> float:
    """Return the median time of one call in nanoseconds, on one thread of the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feed = {session.get_inputs()[0].name: np.load(example)}
    end = time.perf_counter() + warm_up_s
    while time.perf_counter() < end:
        session.run(names, feed)
    samples: list[int] = []
    end = time.perf_counter() + min_s
    while len(samples) < min_runs or time.perf_counter() < end:
        start = time.perf_counter_ns()
        session.run(names, feed)
        samples.append(time.perf_counter_ns() - start)
    return statistics.median(samples)


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])))
