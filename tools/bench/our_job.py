"""Our whole way from a torch net to fp32, fp16 and static int8: `our_job WEIGHTS.pt DATA.npz OUT HOW`.

WEIGHTS.pt holds the state of the digits CNN, DATA.npz the arrays `calibration`, `selection` and `targets`. HOW is
`plain`, or `judged` where every file is also held against the net and its accuracy measured, as a build does.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from edgedeploy import export
from edgedeploy.evaluate import evaluate
from edgedeploy.records import Format, Precision, Target
from edgedeploy.task import Split
from tools.bench.digits_nets import Cnn
from tools.bench.subjects import make_task


def main(weights: str, data: str, folder: str, how: str) -> None:
    """Write all three files under `folder`."""
    arrays = np.load(data)
    calibration = Split((arrays["calibration"],), np.zeros(len(arrays["calibration"]), np.int64))
    selection = Split((arrays["selection"],), arrays["targets"])
    splits = {"train": calibration, "calibration": calibration, "selection": selection, "test": selection}
    task = make_task("digits CNN", Cnn, splits, "accuracy")
    net = Cnn()
    net.load_state_dict(torch.load(weights, weights_only=True))
    source = export.convert(net.eval(), Format.ONNX, task, Path(folder))
    for precision in (Precision.FP32, Precision.FP16, Precision.INT8):
        target = Target(Format.ONNX, precision)
        there = Path(folder, str(precision))
        there.mkdir()
        exported = export.quantise(source, target, task, there)
        if how == "judged":
            export.check_parity(exported, target, task)
            evaluate(exported.path, exported.contract, task, "selection")


if __name__ == "__main__":
    main(*sys.argv[1:])
