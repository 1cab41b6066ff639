from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from edgedeploy.cli import main
from tests.board.test_runners import elf

if TYPE_CHECKING:
    import pytest


def test_runner_is_added_listed_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = ["--project", str(tmp_path), "--json"]
    assert main(["runtimes", "list", "--project", str(tmp_path)]) == 0
    assert "No native runner yet" in capsys.readouterr().out
    tool, library = elf(tmp_path / "benchmark_model"), elf(tmp_path / "libx.so")
    assert main(["runtimes", "add", str(tool), "--arch", "aarch64", "--beside", str(library), *there]) == 0
    (added,) = json.loads(capsys.readouterr().out)
    assert (added["kind"], added["arch"], list(added["files"])) == (
        "benchmark_model",
        "aarch64",
        [tool.name, "libx.so"],
    )
    assert main(["runtimes", "list", "--project", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert all(word in told for word in (added["id"][:12], "benchmark_model", "aarch64", "tflite files", "libx.so"))
    assert main(["runtimes", "remove", added["id"][:8], *there]) == 0
    assert json.loads(capsys.readouterr().out) == [added]
    assert main(["runtimes", "list", *there]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_what_is_no_runner_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool = elf(tmp_path / "benchmark_model", 62)
    assert main(["runtimes", "add", str(tool), "--arch", "aarch64", "--project", str(tmp_path)]) == 2
    assert "built for x86_64, not for aarch64" in capsys.readouterr().err
