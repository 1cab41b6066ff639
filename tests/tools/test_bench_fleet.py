"""The bench of fleets does its whole job on a small fleet, and says in words what it could not measure."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.bench import environments, fleet
from tools.bench.environments import PeerFailed
from tools.bench.rows import OURS, BenchError, Row
from tools.bench.tables import Table


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BOARDS", 2), ("ROUNDS", 2), ("SIZE_BYTES", 50_000), ("JOBS", 2)):
        monkeypatch.setattr(fleet, name, value)


def test_a_small_fleet_is_served_by_all_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(peer: str) -> Path:
        raise PeerFailed("failed: no such package")

    monkeypatch.setattr(environments, "interpreter", absent)
    first, again, table = fleet.run()
    for row in (first, again):
        assert isinstance(row, Row)
        assert (row.better, set(row.peers)) == ("lower", {fleet.XARGS})
        assert row.ours > 0
    assert isinstance(table, Table)
    records = {str(record["way"]): record for record in table.records()}
    assert set(records) == {OURS, fleet.XARGS, "pyinfra"}
    assert records["pyinfra"]["remark"] == "failed: no such package"
    assert float(str(records[OURS]["peak memory, MiB"])) > 5


def test_a_contender_that_leaves_a_board_out_is_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet._Fleet, "ours", lambda self: ["true"])
    with pytest.raises(BenchError, match="edgedeploy left board-0 without the file"):
        fleet.run()


def test_a_contender_that_fails_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet._Fleet, "ours", lambda self: ["sh", "-c", "echo broken >&2; exit 1"])
    with pytest.raises(BenchError, match="fleet: edgedeploy failed: broken"):
        fleet.run()
