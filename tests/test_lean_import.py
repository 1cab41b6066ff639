"""Importing the package and asking for help stay quick: neither loads what only some of the work needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import edgedeploy

ROOT = Path(__file__).parents[1]
HEAVY = frozenset(
    ("torch", "onnx", "onnxruntime", "litert_torch", "jax", "sklearn", "optuna", "dask", "sqlalchemy.orm")
)


def loaded_by(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter has loaded after running `code`."""
    report = "import json, sys; print('\\n' + json.dumps(sorted(sys.modules)))"
    # A site's own start-up files may load anything; what counts is what we load.
    program = (
        f"import sys\nbefore = set(sys.modules)\n{code}\nfor name in before: sys.modules.pop(name, None)\n{report}"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_check_sees_a_heavy_import() -> None:
    loaded = loaded_by("import sqlalchemy.orm")
    assert loaded & HEAVY == {"sqlalchemy.orm"}


def test_importing_the_package_is_light() -> None:
    loaded = loaded_by("import edgedeploy")
    assert "edgedeploy" in loaded
    assert loaded & HEAVY == set()


def test_the_package_offers_something() -> None:
    assert edgedeploy.__all__


@pytest.mark.parametrize("name", edgedeploy.__all__)
def test_each_public_name_is_there_and_light(name: str) -> None:
    loaded = loaded_by(f"import edgedeploy\nassert edgedeploy.{name} is not None")
    assert loaded & HEAVY == set()


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = edgedeploy.no_such_name


def test_help_is_light() -> None:
    loaded = loaded_by(
        "import runpy\n"
        "sys.argv = ['edgedeploy', '--help']\n"
        "try:\n"
        "    runpy.run_module('edgedeploy', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
    )
    assert "edgedeploy.cli" in loaded
    assert loaded & HEAVY == set()
    assert loaded & {"rich.table", "edgedeploy.records"} == set(), "what prints is loaded by the verb that prints"


def test_help_names_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgedeploy", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "edgedeploy" in done.stdout
    assert done.stderr == ""
