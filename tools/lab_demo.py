"""The road over the boards of the virtual lab: bare ones are provisioned, measured and chosen for, one deployed to."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from tools.demo import edgedeploy
from tools.lab import Lab, LabError

FOLDER = Path("build") / "lab-demo"
CONFIG = FOLDER / "config"
BOARDS = ("pi4", "pi5", "jetson", "x86", "phone")
DEPLOYED = "x86"
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
    parser.add_argument("boards", nargs="*", metavar="BOARD", help=f"of {', '.join(BOARDS)}; all where none is named")
    boards = parser.parse_args().boards or BOARDS
    started = time.monotonic()
    try:
        with Lab().in_use() as lab:
            write_project(lab)
            code = walk(boards)
    except LabError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"Done in {time.monotonic() - started:.0f} s.")
    return code


def write_project(lab: Lab) -> None:
    """Write the digits example with a plan and a fleet of its own, unless it is there; the fleet is always written."""
    if not (FOLDER / "edgedeploy.toml").exists():
        edgedeploy("init", str(FOLDER), "--example", "digits-cnn")
        (FOLDER / "edgedeploy.toml").write_text(PLAN)
    shutil.copy(lab.fleet_file, FOLDER / "fleet.toml")
    os.environ["XDG_CONFIG_HOME"] = str(CONFIG.resolve())  # its key is no business of the user's own


def walk(boards: tuple[str, ...] | list[str]) -> int:
    """Provision, measure and choose in one command; then deploy twice to a board, look, and go back."""
    named = [word for board in boards for word in ("--device", board)]
    on = ("--project", str(FOLDER), "--device", DEPLOYED)
    commands = [["run", "--project", str(FOLDER), "--provision", "--mode", "smoke", *named]]
    if DEPLOYED in boards:
        if not CONFIG.exists():
            commands.append(["keys", "new", "lab-demo"])
        commands += [["deploy", *on, "--variant", variant] for variant in VARIANTS]
        commands += [["status", *on], ["rollback", *on], ["status", *on]]
    for command in commands:
        if code := edgedeploy(*command):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
