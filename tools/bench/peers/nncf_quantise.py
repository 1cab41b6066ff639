"""NNCF's post-training quantisation: `python nncf_quantise.py METHOD FLOAT.onnx DATA.npz OUT.onnx`.

`calibration` in DATA has the examples along its first axis. METHOD is `static`, with every default, or
`static-transformer`, as its documentation advises for these.
"""

from __future__ import annotations

import sys

import nncf
import numpy as np
import onnx


def main(method: str, source: str, data: str, result: str) -> None:
    """Write the quantised file to `result`."""
    examples = np.load(data)["calibration"]
    dataset = nncf.Dataset(list(examples), lambda example: {"input": example[None]})
    kind = nncf.ModelType.TRANSFORMER if method == "static-transformer" else None
    quantised = nncf.quantize(onnx.load(source), dataset, model_type=kind, subset_size=len(examples))
    onnx.save(quantised, result)


if __name__ == "__main__":
    main(*sys.argv[1:])
