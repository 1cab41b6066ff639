"""Holds every sample to saying where it comes from, and whether a board ever gave it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedeploy.plan import load_profiles
from tests.boards import samples


@pytest.mark.parametrize("board", samples.boards())
def test_every_file_is_listed_and_every_listed_file_is_there(board: str) -> None:
    there = {path.name for path in (samples.HERE / board).iterdir()} - {"source.toml"}
    assert there == set(samples.sources(board))


@pytest.mark.parametrize("board", samples.boards())
def test_every_sample_names_its_source_and_says_whether_it_was_captured(board: str) -> None:
    for name, sample in samples.sources(board).items():
        assert isinstance(sample.captured, bool), name
        assert len(sample.source) > 20, f"{name}: name the document or the board"
        assert sample.reads, f"{name}: name the command or the path"


def test_every_shipped_kind_of_board_has_samples() -> None:
    assert samples.boards() == sorted(load_profiles())


@pytest.mark.parametrize("board", samples.boards())
def test_a_sysfs_sample_is_lines_of_path_and_value(board: str) -> None:
    trees = [name for name in samples.sources(board) if name.endswith(".sysfs")]
    assert trees
    for name in trees:
        assert all(path.startswith("/sys/") for path in samples.tree(board, name))


def test_a_tree_is_laid_out_as_files_without_the_unreadable_ones(tmp_path: Path) -> None:
    root = samples.lay_out("jetson-orin-nano", tmp_path)
    zones = root / "sys/class/thermal"
    assert (zones / "thermal_zone0/type").read_text() == "cpu-thermal\n"
    assert (zones / "thermal_zone2/type").is_file()
    assert not (zones / "thermal_zone2/temp").exists()
    assert (root / "proc/meminfo").read_text() == samples.text("jetson-orin-nano", "meminfo.txt")
    assert (root / "sys/bus/i2c/devices/1-0040/hwmon/hwmon1/in1_label").read_text() == "VDD_IN\n"


def test_a_line_without_a_value_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "HERE", tmp_path)
    (tmp_path / "board").mkdir()
    (tmp_path / "board" / "odd.sysfs").write_text("/sys/class/thermal 41000\n")
    with pytest.raises(ValueError, match="not `/path = value`"):
        samples.tree("board", "odd.sysfs")
