"""ONNX Runtime's own quantisation as its documentation calls it: `python ort.py METHOD FLOAT.onnx DATA.npz OUT.onnx`.

`calibration` in DATA has the examples along its first axis. METHOD is `static` or `dynamic`, with every default.
"""

from __future__ import annotations

import sys

import numpy as np
from onnxruntime import quantization


def main(method: str, source: str, data: str, result: str) -> None:
    """Write the quantised file to `result`."""
    if method == "dynamic":
        quantization.quantize_dynamic(source, result)
        return

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Hands out the examples one by one."""

        def __init__(self) -> None:
            self._examples = iter(np.load(data)["calibration"])

        def get_next(self) -> dict[str, np.ndarray] | None:
            example = next(self._examples, None)
            return None if example is None else {"input": example[None]}

    quantization.quantize_static(source, result, Reader())


if __name__ == "__main__":
    main(*sys.argv[1:])
