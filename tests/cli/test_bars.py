"""What a build is at shows as lines in a log, and as a bar with a spinner for each process on a terminal."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.console import Console

from edgedeploy.cli.bars import Bars, Lines

if TYPE_CHECKING:
    import pytest


def test_a_log_gets_each_step_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines.building(0, 3, ("compress slim", "load dense"))
    lines.building(0, 3, ("compress slim", "export dense-onnx-fp32"))
    lines.building(1, 3, ("compress slim", "export dense-onnx-fp32"))
    lines.building(3, 3, ())
    assert capsys.readouterr().err.splitlines() == ["compress slim", "load dense", "export dense-onnx-fp32"]


def shown(bars: Bars) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=100)
    console.print(bars._live.get_renderable())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_terminal_shows_how_many_are_done_and_what_each_process_is_at() -> None:
    with Bars(Console(file=io.StringIO(), force_terminal=True)) as bars:
        bars.step("train the source net")
        assert "train the source net" in shown(bars)
        bars.building(1, 12, ("compress slim", "export [dense]-onnx-fp32"))
        text = shown(bars)
        assert "train" not in text
        assert "compress slim" in text
        assert "export [dense]-onnx-fp32" in text
        assert " 1/12" in text
        bars.building(4, 12, ("compress slim",))
        text = shown(bars)
        assert " 4/12" in text
        assert "export" not in text
        bars.building(12, 12, ())
        assert "variants" not in shown(bars)
