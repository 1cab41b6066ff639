"""Olive's whole way from a torch net to fp32, fp16 and static int8: `olive_job.py NETS.py WEIGHTS.pt DATA.npz OUT HOW`.

NETS.py defines `Cnn`, WEIGHTS.pt holds its state, DATA.npz the arrays `calibration`, `selection` and `targets`. HOW is
`plain`, or `judged` where Olive is to measure the accuracy of every file as well.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from olive.data.registry import Registry
from olive.workflows import run

CONVERT = {"type": "OnnxConversion"}
FLOWS: dict[str, dict[str, Any]] = {
    "fp32": {"convert": CONVERT},
    "fp16": {"convert": CONVERT, "halve": {"type": "OnnxFloatToFloat16", "keep_io_types": True}},
    "int8": {"convert": CONVERT, "quantise": {"type": "OnnxStaticQuantization", "data_config": "calibration"}},
}


# Olive loads a net through a file of the user's.
LOADER = """
import importlib.util
import torch

def load(_):
    spec = importlib.util.spec_from_file_location("nets", {nets!r})
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net = module.Cnn()
    net.load_state_dict(torch.load({weights!r}, weights_only=True))
    return net.eval()
"""


class Examples(torch.utils.data.Dataset[Any]):
    """Inputs and labels as Olive takes them."""

    def __init__(self, data: str, inputs: str) -> None:
        arrays = np.load(data)
        self._inputs = arrays[inputs]
        self._targets = arrays["targets"] if inputs == "selection" else np.zeros(len(self._inputs), np.int64)

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Any]:
        return {"input": self._inputs[index]}, self._targets[index]


@Registry.register_dataset()  # type: ignore[untyped-decorator]
def job_examples(data: str, inputs: str, **_: Any) -> Examples:
    """Open one split; Olive looks this function up by its name."""
    return Examples(data, inputs)


@Registry.register_post_process()  # type: ignore[untyped-decorator]
def job_classes(outputs: Any, **_: Any) -> Any:
    """The class of each example."""
    return torch.as_tensor(outputs["output"] if isinstance(outputs, dict) else outputs).argmax(-1)


def main(nets: str, weights: str, data: str, folder: str, how: str) -> None:
    """Write all three files under `folder`."""
    loader = f"{folder}/loader.py"
    Path(loader).write_text(LOADER.format(nets=nets, weights=weights), "utf-8")
    for name, passes in FLOWS.items():
        run(_workflow(loader, data, folder, name, passes, judged=how == "judged"))


def _workflow(loader: str, data: str, folder: str, name: str, passes: dict[str, Any], judged: bool) -> dict[str, Any]:
    workflow: dict[str, Any] = {
        "input_model": {
            "type": "PyTorchModel",
            "model_loader": "load",
            "model_script": loader,
            "io_config": {
                "input_names": ["input"],
                "input_shapes": [[2, 8, 8]],
                "output_names": ["output"],
                "dynamic_axes": {"input": {"0": "batch"}, "output": {"0": "batch"}},
            },
        },
        "data_configs": [_data("calibration", data, 1), _data("selection", data, 64)],
        "passes": passes,
        "output_dir": f"{folder}/{name}",
        "cache_dir": f"{folder}/cache",  # shared: the net is converted once
        "evaluate_input_model": False,
    }
    if judged:
        metric = {"name": "accuracy", "type": "accuracy", "data_config": "selection", "sub_types": [SUB_TYPE]}
        workflow["evaluators"] = {"accuracy": {"type": "OnnxEvaluator", "metrics": [metric]}}
        workflow["evaluator"] = "accuracy"
    return workflow


SUB_TYPE = {"name": "accuracy_score", "priority": 1, "metric_config": {"task": "multiclass", "num_classes": 10}}


def _data(inputs: str, data: str, batch: int) -> dict[str, Any]:
    return {
        "name": inputs,
        "load_dataset_config": {"type": "job_examples", "params": {"data": data, "inputs": inputs}},
        "pre_process_data_config": {"type": "skip_pre_process"},
        "post_process_data_config": {"type": "job_classes"},
        "dataloader_config": {"type": "default_dataloader", "params": {"batch_size": batch}},
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
