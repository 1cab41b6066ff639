"""The whole road, from a net to a release that was taken back, on a board of the lab that has nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedeploy.project import Project
from edgedeploy.records import Outcome, Verdict
from tools import lab_demo
from tools.lab import Lab

NAME = lab_demo.DEPLOYED


@pytest.mark.lab
@pytest.mark.road
@pytest.mark.timeout(1500)
def test_the_road_over_a_bare_board(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "")  # the road sets it, and this takes it back
    with lab.borrow(NAME) as board:
        board.run("/bin/rm", "-rf", "/home/pi/.edgedeploy")
    folder = tmp_path / "road"
    assert lab_demo.walk(lab, [NAME], folder) == 0

    project = Project(folder)
    device = project.fleet.device(NAME)
    reports = {report.variant_name: report for report in project.latest_reports(device).values()}
    assert sorted(reports) == sorted(lab_demo.VARIANTS)
    assert {report.runtime for report in reports.values()} == {"onnxruntime", "ai_edge_litert"}
    for report in reports.values():
        assert (report.outcome, report.verdict) == (Outcome.OK, Verdict.SUSPECT)
        assert "emulated" in report.reasons
    assert "REHEARSAL" in (folder / "report.html").read_text().upper()

    releases = project.store.releases(NAME)
    assert releases is not None
    assert releases.current is not None
    assert releases.current.variant_name == lab_demo.VARIANTS[0], "the second release was taken back"
    assert (releases.current.drift, releases.highest) == ((), 2)
