"""The harness around the benches: what it writes, where, and what it refuses."""

from __future__ import annotations

import importlib
import json
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from tools.adbd import Phone
from tools.bench import agent, over_adb, publish, push, startup
from tools.bench.__main__ import BENCHES, main
from tools.bench.nets import SMALL
from tools.bench.relay import Link, relay
from tools.bench.rows import OURS, BenchError, Row, interleave, ratio_row
from tools.bench.tables import Table

ROW = Row("64 MiB | loopback", "x time of scp", "lower", 1.25, 0.03, {"scp": 1.0, "sftp": 0.98})


class FakeBench(ModuleType):
    """A bench that measures nothing and answers `rows`."""

    TITLE = "A bench"
    HOW = "By hand."
    TOOLS = ("pytest", "surely-not-installed")
    rows: Sequence[Row | Table] | None = None

    def run(self) -> Sequence[Row | Table]:
        if self.rows is None:
            raise BenchError("fake: needs a thing that is not here.")
        return self.rows


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeBench:
    module = FakeBench("fake_bench")
    module.rows = [ROW]
    monkeypatch.setitem(sys.modules, "fake_bench", module)
    return module


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "benchmarks.md").write_text("# Benchmarks\n\nHead.\n")
    return tmp_path


def run(root: Path, *argv: str) -> int:
    return main(argv, {"fake": "fake_bench"}, root)


@pytest.mark.usefixtures("fake")
def test_rows_are_written_as_json(root: Path) -> None:
    assert run(root, "fake") == 0
    document = json.loads((root / "build/bench/fake.json").read_text())
    assert set(document) == {"bench", "machine", "rows"}
    assert document["bench"] == "fake"
    assert document["machine"]
    assert document["rows"] == [
        {
            "task": "64 MiB | loopback",
            "unit": "x time of scp",
            "better": "lower",
            "ours": 1.25,
            "spread": 0.03,
            "peers": {"scp": 1.0, "sftp": 0.98},
        }
    ]


@pytest.mark.usefixtures("fake")
def test_no_name_runs_every_bench(root: Path) -> None:
    assert run(root) == 0
    assert (root / "build/bench/fake.json").exists()


@pytest.mark.usefixtures("fake")
def test_the_section_says_how_it_was_made(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(root, "fake")
    text = (root / "docs/benchmarks.md").read_text()
    assert text.startswith("# Benchmarks\n\nHead.\n\n<!-- bench:fake -->\n## A bench\n")
    assert "`make bench ONLY=fake`" in text
    assert f"pytest {pytest.__version__}" in text
    assert publish.machine() in text
    assert "surely-not-installed" not in text
    assert "| 64 MiB \\| loopback | x time of scp | lower | 1.25 | 0.03 | scp 1, sftp 0.98 |" in text
    assert text.endswith("<!-- /bench:fake -->\n")
    assert "A bench" in capsys.readouterr().out


def test_a_section_is_replaced_and_the_rest_is_kept(fake: FakeBench, root: Path) -> None:
    run(root, "fake")
    with (root / "docs/benchmarks.md").open("a") as document:
        document.write("\nTail.\n")
    fake.rows = [Row("another", "ms", "higher", 2.0, 0.1, {})]
    run(root, "fake")
    text = (root / "docs/benchmarks.md").read_text()
    assert text.count("<!-- bench:fake -->") == text.count("<!-- /bench:fake -->") == 1
    assert "| another | ms | higher | 2 | 0.1 | - |" in text
    assert "64 MiB" not in text
    assert text.startswith("# Benchmarks\n\nHead.\n")
    assert text.endswith("<!-- /bench:fake -->\n\nTail.\n")


TABLE = Table(
    "Cells",
    ("net", "bytes", "speed-up", "remark"),
    (("a | b", 1234567, 1.23456, None), ("b", None, None, "refused: it\nis so")),
)


def test_a_table_is_written_beside_the_rows(fake: FakeBench, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake.rows = [ROW, TABLE]
    assert run(root, "fake") == 0
    document = json.loads((root / "build/bench/fake.json").read_text())
    assert set(document) == {"bench", "machine", "rows", "tables"}
    assert [row["task"] for row in document["rows"]] == ["64 MiB | loopback"]
    assert document["tables"] == [
        {
            "title": "Cells",
            "rows": [
                {"net": "a | b", "bytes": 1234567, "speed-up": 1.23456, "remark": None},
                {"net": "b", "bytes": None, "speed-up": None, "remark": "refused: it\nis so"},
            ],
        }
    ]
    text = (root / "docs/benchmarks.md").read_text()
    first, second = (
        text.index("| task | unit |"),
        text.index("### Cells\n\n| net | bytes | speed-up | remark |\n|---|---|---|---|\n"),
    )
    assert first < second
    assert "| a \\| b | 1,234,567 | 1.235 | - |\n| b | - | - | refused: it is so |\n<!-- /bench:fake -->" in text
    said = capsys.readouterr().out
    assert "1,234,567" in said
    assert "sftp 0.98" in said


def test_a_table_alone_has_no_heading_of_rows(fake: FakeBench, root: Path) -> None:
    fake.rows = [TABLE]
    assert run(root, "fake") == 0
    assert "| task |" not in (root / "docs/benchmarks.md").read_text()
    assert json.loads((root / "build/bench/fake.json").read_text())["rows"] == []


def test_a_row_that_lacks_a_cell_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="1 cells"):
        Table("Cells", ("net", "bytes"), (("a",),))


@pytest.mark.parametrize(
    "text",
    ["<!-- bench:a -->\n", "<!-- /bench:a -->\n<!-- bench:a -->\n", "<!-- bench:a --><!-- /bench:a -->" * 2],
)
def test_markers_that_do_not_pair_are_refused(text: str) -> None:
    with pytest.raises(BenchError, match="markers of `a` do not pair"):
        publish.replace_section(text, "a", "new")


@pytest.mark.parametrize("rows", [None, []])
def test_a_bench_that_fails_leaves_no_old_figures(
    fake: FakeBench, root: Path, capsys: pytest.CaptureFixture[str], rows: list[Row] | None
) -> None:
    run(root, "fake")
    document = (root / "docs/benchmarks.md").read_text()
    fake.rows = rows
    assert run(root, "fake") == 3
    assert capsys.readouterr().err.startswith("bench: fake: ")
    assert not (root / "build/bench/fake.json").exists()
    assert (root / "docs/benchmarks.md").read_text() == document


@pytest.mark.parametrize("argv", [["agnet"], ["agent", "push"]])
def test_an_unknown_name_is_answered_with_the_names(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    for name in BENCHES:
        assert name in said.err


@pytest.mark.parametrize("name", BENCHES)
def test_a_bench_says_what_it_measures_and_how(name: str) -> None:
    bench = importlib.import_module(BENCHES[name])
    assert bench.TITLE
    assert len(bench.HOW) > 40
    assert bench.TOOLS
    assert callable(bench.run)


def test_every_contender_has_its_turn_in_every_round_and_the_first_is_thrown_away() -> None:
    turns: list[str] = []

    def contender(name: str) -> float:
        turns.append(name)
        return float(len(turns))

    samples = interleave({name: lambda name=name: contender(name) for name in "abc"}, rounds=20)  # type: ignore[misc]
    rounds = [turns[at : at + 3] for at in range(0, len(turns), 3)]
    assert len(rounds) == 21
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1, "the order never changed"
    assert all(len(figures) == 20 and min(figures) > 3 for figures in samples.values())


def test_a_ratio_is_taken_within_each_round() -> None:
    # The machine slows down tenfold between the rounds; the ratio does not care.
    samples = {OURS: [2.0, 20.0, 200.0], "scp": [1.0, 10.0, 100.0], "sftp": [3.0, 30.0, 300.0]}
    row = ratio_row("a task", samples, "scp", "time")
    assert (row.unit, row.better) == ("x time of scp", "lower")
    assert (row.ours, row.spread) == (2.0, 0.0)
    assert row.peers == {"scp": 1.0, "sftp": 3.0}


def test_spread_is_the_interquartile_range_of_our_ratio() -> None:
    row = ratio_row("a task", {OURS: [1.0, 2.0, 3.0, 4.0, 5.0], "scp": [1.0] * 5}, "scp", "time")
    assert (row.ours, row.spread) == (3.0, 2.0)


def test_samples_of_unequal_length_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="longer"):
        ratio_row("a task", {OURS: [1.0], "scp": [1.0, 2.0]}, "scp", "time")


def assert_compared(row: Row, *peers: str) -> None:
    assert row.better == "lower"
    assert row.ours > 0
    assert row.spread >= 0
    assert set(row.peers) == set(peers)
    assert 1.0 in row.peers.values(), "the program that the unit names"


def test_the_agent_bench_runs_the_packed_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("NETS", (SMALL,)), ("ROUNDS", 2), ("WARM_UP_S", 0.01), ("MIN_RUNS", 20), ("MIN_S", 0.01)):
        monkeypatch.setattr(agent, name, value)
    (small,) = agent.run()
    assert_compared(small, agent.BARE)
    assert "23,946 parameters" in small.task
    # A call of the small net is over in microseconds; had we timed the process, it would be thousands of times as long.
    assert 0.2 < small.ours < 5


def test_an_agent_that_cannot_do_its_job_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "_contract", lambda net: b"{}")
    with pytest.raises(BenchError, match=r"^agent: .*contract"):
        agent.run()


def test_the_push_bench_sends_over_a_real_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "ROUNDS", 2)
    monkeypatch.setattr(push, "SLOW_ROUNDS", 2)
    monkeypatch.setattr(push, "SLOW", Link(bits_per_s=400e6, round_trip_s=0.002))
    monkeypatch.setattr(push, "SIZE_BYTES", 8_000_000)
    monkeypatch.setattr(push, "over_adb", lambda source, parts: [])
    *rows, again, resumed = push.run()
    assert len(rows) == 4
    for row in rows:
        assert isinstance(row, Row)
        assert_compared(row, "scp", "sftp", "rsync", "paramiko put")
        assert row.peers["scp"] == 1.0
    assert isinstance(again, Table)
    assert isinstance(resumed, Table)
    sent = {str(each["way"]): each["bytes to the board"] for each in again.records()}
    assert 0 < int(str(sent["push"])) < 40_000
    assert int(str(sent["scp"])) > 8_000_000
    sent = {str(each["way"]): each["bytes to the board"] for each in resumed.records()}
    assert int(str(sent["push"])) < 7_500_000, "what an SSH window holds may be lost"
    assert int(str(sent["scp"])) > 8_000_000


def test_the_push_bench_sends_to_a_real_adbd_as_well(phone: Phone, tmp_path: Path) -> None:
    del phone  # that this machine can have one
    source = tmp_path / "model.bin"
    source.write_bytes(bytes(300_000))
    link = Link(bits_per_s=400e6, round_trip_s=0.05)
    rows = over_adb.over_adb(source, [(2, None, "on loopback"), (2, link, "afar")])
    assert len(rows) == 4
    for row in rows:
        assert isinstance(row, Row)
        assert_compared(row, over_adb.ADB_PUSH)
        assert "300000 bytes over adb" in row.task


def test_a_machine_that_can_have_no_adbd_has_a_refused_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (table,) = over_adb.over_adb(tmp_path / "model.bin", [(2, None, "on loopback")])
    assert isinstance(table, Table)
    (adb, ours) = table.records()
    assert (adb["way"], ours["way"]) == (over_adb.ADB_PUSH, OURS)
    assert "refused: adb and unshare are needed" in str(adb["remark"])


def test_the_relay_is_as_slow_as_the_link_and_counts() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        relay(server.getsockname()[1], Link(bits_per_s=8e6, round_trip_s=0.2)) as link,
        socket.create_connection(("127.0.0.1", link.port)) as near,
        server.accept()[0] as far,
    ):
        start = time.monotonic()
        near.sendall(bytes(200_000))
        received = 0
        while received < 200_000:
            received += len(far.recv(1 << 16))
        far.sendall(b"x")
        assert near.recv(1) == b"x"
        assert time.monotonic() - start >= 0.4
        near.sendall(b"y")
        assert far.recv(1) == b"y"
        counted = link.count()
        assert (counted.up_bytes, counted.down_bytes, counted.round_trips) == (200_001, 1, 2)
        link.cut_after(10)
        near.sendall(bytes(100))
        assert near.recv(1) == b"", "the connection is broken"


def script(path: Path, lines: str) -> None:
    path.write_text("#!/bin/sh\n" + lines)
    path.chmod(0o755)


def test_the_startup_bench_leaves_out_what_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("python", "edgedeploy", "pip"):
        script(tmp_path / name, "exit 0\n")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(startup, "ROUNDS", 2)
    (row,) = startup.run()
    assert_compared(row, "python -c pass", "python -c 'import typer'", "pip --version")


def test_the_startup_bench_needs_our_own_program(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="edgedeploy is not installed"):
        startup.installed(tmp_path / "python")


def test_a_program_that_fails_is_no_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script(tmp_path / "python", "exit 0\n")
    script(tmp_path / "edgedeploy", "echo broken >&2\nexit 1\n")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(BenchError, match="--help` failed: broken"):
        startup.run()
