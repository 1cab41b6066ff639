"""What runs on a board needs Python 3.7, the standard library and nothing of ours."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from edgedeploy import on_device

FOLDER = Path(on_device.__file__).parent
RUNTIME_MODULES = {"numpy"}


def test_python_3_7_is_enough() -> None:
    vermin = [sys.executable, "-c", "from vermin import main; main()"]
    done = subprocess.run([*vermin, "-t=3.7-", "--no-tips", str(FOLDER)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_only_the_standard_library_is_imported(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"), feature_version=(3, 7))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1, f"line {node.lineno} leaves the folder"
            continue
        else:
            continue
        for name in names:
            top = name.partition(".")[0]
            assert top in sys.stdlib_module_names | RUNTIME_MODULES, f"line {node.lineno} imports {name}"


def test_a_short_job_loads_only_what_it_needs() -> None:
    """A zip keeps no compiled modules: a slow board compiles anew for every job whatever the agent imports."""
    told = subprocess.run(
        [sys.executable, "-S", "-c", "import edgedeploy.on_device.agent, sys; print(*sys.modules, sep='\\n')"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    of_ours = {name.rpartition(".")[2] for name in told if name.startswith("edgedeploy.on_device.")}
    assert of_ours == {
        *("agent", "checks", "documents", "facts", "failures", "fields", "interpreter", "limits", "lock", "objects"),
        *("plain_files", "release_schema", "reply", "schema", "stopping", "switching", "uploads"),
    }
    assert not {"argparse", "platform", "shutil", "subprocess", "tempfile", "importlib.util"} & set(told)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_numpy_is_imported_only_where_it_is_needed(path: Path) -> None:
    """A board without numpy still answers facts, inventory and admit."""
    for node in ast.parse(path.read_text("utf-8")).body:
        assert not (isinstance(node, ast.Import) and any(alias.name in RUNTIME_MODULES for alias in node.names))
