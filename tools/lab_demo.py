"""The road over the boards of the virtual lab: bare ones are provisioned, measured and chosen for, one deployed to."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from tools.demo import edgedeploy
from tools.lab import Lab, LabError

FOLDER = Path("build") / "lab-demo"
BOARDS = ("pi4", "pi5", "jetson", "x86", "phone")
DEPLOYED = "pi4"
VARIANTS = ("dense-onnx-fp32", "dense-tflite-fp32")
# An emulated board takes minutes for a variant, so the example's own twelve are not measured here.
PLAN = """\
# The road over the lab: one net in both formats.

[task]
file = "task.py"
weights = "weights.safetensors"

[train]
epochs = 20
learning_rate = 5e-3
batch_size = 64

[goal]
minimise = "latency"
max_drop = 0.01

[[recipe]]
name = "dense"
formats = ["onnx", "tflite"]
precisions = ["fp32"]
"""


def main() -> int:
    """Walk the road; returns the first exit code of `edgedeploy` that is not 0."""
    parser = argparse.ArgumentParser(prog="python -m tools.lab_demo", description=__doc__)
    parser.add_argument("boards", nargs="*", metavar="BOARD", help=f"by default {', '.join(BOARDS)}")
    boards = parser.parse_args().boards or BOARDS
    started = time.monotonic()
    try:
        with Lab().in_use() as lab:
            code = walk(lab, boards)
    except LabError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"Done in {time.monotonic() - started:.0f} s.")
    return code


def walk(lab: Lab, boards: Sequence[str], folder: Path = FOLDER) -> int:
    """Provision, measure and choose in one command; then deploy twice to a board, look, and go back.

    Returns the first exit code of `edgedeploy` that is not 0. Raises LabError for a board that the lab has not.
    """
    with ExitStack() as stack:
        for board in sorted(boards):  # in one order, so that two who want the same never wait for each other
            stack.enter_context(lab.borrow(board))
        if not (folder / "edgedeploy.toml").exists():
            edgedeploy("init", str(folder), "--example", "digits-cnn")
            (folder / "edgedeploy.toml").write_text(PLAN)
        shutil.copy(lab.fleet_file, folder / "fleet.toml")
        os.environ["XDG_CONFIG_HOME"] = str(folder.resolve() / "config")  # its key is no business of the user's own
        return next((code for command in commands(folder, boards) if (code := edgedeploy(*command))), 0)


def commands(folder: Path, boards: Sequence[str]) -> Iterator[list[str]]:
    """The arguments of each command of the road."""
    named = [word for board in boards for word in ("--device", board)]
    yield ["run", "--project", str(folder), "--provision", "--mode", "smoke", *named]
    if DEPLOYED in boards:
        on = ["--project", str(folder), "--device", DEPLOYED]
        if not (folder / "config").exists():
            yield ["keys", "new", "lab-demo"]
        for variant in VARIANTS:
            yield ["deploy", *on, "--variant", variant]
        yield ["rollback", *on]
        yield ["status", *on]


if __name__ == "__main__":
    sys.exit(main())
