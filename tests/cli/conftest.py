from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgedeploy import pipeline
from edgedeploy.profiling import MODES, Mode
from edgedeploy.project import Project
from tests.support.project import local_fleet, write_project


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_project(tmp_path_factory.mktemp("cli") / "built")
    pipeline.build(Project(folder))
    return folder


@pytest.fixture
def built(built_once: Path, tmp_path: Path) -> Path:
    """A project with two variants built and no board visited yet."""
    folder = tmp_path / "project"
    shutil.copytree(built_once, folder)
    (folder / "fleet.toml").write_text(local_fleet(folder))
    return folder


@pytest.fixture
def short_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure for fractions of a second: enough to walk the road, not to believe the figures."""
    for name in list(MODES):
        monkeypatch.setitem(MODES, name, Mode(name, min_runs=64, min_seconds=0.2, repetitions=2))
