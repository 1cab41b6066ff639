"""Olive's passes on an ONNX file: `python olive_quantise.py METHOD FLOAT.onnx DATA.npz OUT.onnx`.

`calibration` in DATA has the examples along its first axis. METHOD is `static`, `dynamic` or `float16`, with every
default but for float32 inputs and outputs.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from olive.data.registry import Registry
from olive.workflows import run

PASSES: dict[str, dict[str, Any]] = {
    "static": {"type": "OnnxStaticQuantization", "data_config": "calibration"},
    "dynamic": {"type": "OnnxDynamicQuantization"},
    "float16": {"type": "OnnxFloatToFloat16", "keep_io_types": True},
}


class Examples(torch.utils.data.Dataset[Any]):
    """The calibration examples as Olive takes them: a dictionary of inputs, and a label that nobody reads."""

    def __init__(self, data: str) -> None:
        self._examples = np.load(data)["calibration"]

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], int]:
        return {"input": self._examples[index]}, 0


@Registry.register_dataset()  # type: ignore[untyped-decorator]
def bench_examples(data: str, **_: Any) -> Examples:
    """Open the examples; Olive looks this function up by its name."""
    return Examples(data)


def main(method: str, source: str, data: str, result: str) -> None:
    """Write the quantised file to `result`."""
    with tempfile.TemporaryDirectory() as folder:
        run(
            {
                "input_model": {"type": "OnnxModel", "model_path": source},
                "data_configs": [
                    {
                        "name": "calibration",
                        "load_dataset_config": {"type": "bench_examples", "params": {"data": data}},
                        "pre_process_data_config": {"type": "skip_pre_process"},
                        "post_process_data_config": {"type": "skip_post_process"},
                        "dataloader_config": {"params": {"batch_size": 1}},
                    }
                ],
                "passes": {method: PASSES[method]},
                "output_dir": f"{folder}/output",
                "cache_dir": f"{folder}/cache",
                "evaluate_input_model": False,
            }
        )
        (written,) = Path(folder, "output").rglob("*.onnx")
        shutil.copyfile(written, result)


if __name__ == "__main__":
    main(*sys.argv[1:])
