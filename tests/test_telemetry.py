"""Nothing that edgedeploy runs tells its maker of it: ONNX Runtime does by itself from 1.31 on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import edgedeploy

SOURCES = Path(edgedeploy.__file__).parent
IMPORT = re.compile(r"^\s+(?:import|from) onnxruntime\b", re.MULTILINE)
SESSION = """
from pathlib import Path
import edgedeploy.on_device.runtime_onnx
import onnxruntime
from onnx import TensorProto, helper
value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
print(sum(path.is_file() for path in Path.home().rglob("*")))
"""


def answer(code: str, home: Path) -> str:
    """What Python prints, in a home folder and an environment that say nothing of telemetry."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    }
    environment |= {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(SOURCES.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.strip()


def test_a_session_of_ours_keeps_nothing_in_the_home_folder(tmp_path: Path) -> None:
    assert answer(SESSION, tmp_path) == "0"


@pytest.mark.parametrize(
    "module",
    [
        ".".join(path.relative_to(SOURCES.parent).with_suffix("").parts)
        for path in sorted(SOURCES.rglob("*.py"))
        if IMPORT.search(path.read_text("utf-8"))
    ],
)
def test_what_imports_it_has_it_switched_off_before(module: str, tmp_path: Path) -> None:
    code = f"import os, sys, {module}; print(os.environ['ORT_DISABLE_TELEMETRY'], 'onnxruntime' in sys.modules)"
    assert answer(code, tmp_path) == "1 False"
