"""The bench of quantising: what it asks for, how it counts, what it says of what there is not, and one real net."""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgedeploy.records import Format, Int8Form, Precision, Target
from tools.bench import contenders, environments, judging, losses, our_job, quantise, wall_time
from tools.bench.contenders import Contender
from tools.bench.digits_nets import Cnn
from tools.bench.environments import PeerFailed
from tools.bench.judging import Figures, Judged, Speed, speed_ups
from tools.bench.rows import OURS
from tools.bench.subjects import Subject, digits_subject
from tools.bench.tables import Table


@pytest.fixture(scope="module")
def subject() -> Subject:
    return digits_subject("digits CNN", Cnn, epochs=2)


class Moody(nn.Module):
    """What comes out depends on what went in, in a way that no file can hold."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        flat = rows.flatten(1)
        return flat if flat.sum() > 0 else -flat


def test_every_precision_is_asked_for_in_both_formats() -> None:
    onnx, tflite = contenders.targets(Format.ONNX), contenders.targets(Format.TFLITE)
    assert onnx[0] == Target(Format.ONNX, Precision.FP32)
    assert tflite[0] == Target(Format.TFLITE, Precision.FP32)
    assert {target.precision for target in onnx} == {target.precision for target in tflite} == set(Precision)
    assert {target.form for target in onnx if target.precision is Precision.INT8} == set(Int8Form)
    assert all(target.form is None for target in tflite)


def test_a_speed_up_is_taken_within_each_round() -> None:
    # The machine slows down tenfold between the rounds; the ratio does not care.
    speeds = speed_ups({"0": [2.0, 20.0, 200.0], "1": [1.0, 10.0, 100.0], "2": [4.0, 40.0, 400.0]})
    assert speeds == {"0": Speed(1.0, 0.0), "1": Speed(2.0, 0.0), "2": Speed(0.5, 0.0)}


def test_the_spread_of_a_speed_up_is_its_interquartile_range() -> None:
    assert speed_ups({"0": [1.0, 2.0, 3.0, 4.0, 5.0], "1": [1.0] * 5})["1"] == Speed(3.0, 2.0)


def test_without_a_base_there_is_no_speed_up() -> None:
    assert speed_ups({"1": [1.0, 2.0]}) == {}


def worth(accuracy: int, size_bytes: int, zipped_bytes: int, speed: float, spread: float = 0.1) -> Figures:
    scores = (np.arange(100) < accuracy).astype(np.float64)
    return Figures(accuracy / 100, 0.01, 0.02, size_bytes, zipped_bytes, scores, Speed(speed, spread))


def test_what_was_refused_has_a_reason_and_no_figure() -> None:
    cells = quantise.cells(Judged(OURS, "w4", why="refused: because"))
    assert cells == (None,) * 7 + ("refused: because",)


def test_a_slower_file_is_shown_as_slower() -> None:
    judged = Judged(OURS, "int8", worth(97, 1000, 900, 0.25))
    assert quantise.cells(judged) == (0.97, 0.01, 0.02, 1000, 900, 0.25, 0.1, "")


PEERS = [
    Judged("Olive", "static", worth(97, 1000, 900, 2.0)),
    Judged("NNCF", "static", worth(90, 1100, 800, 2.2)),
    Judged("ONNX Runtime", "static", why="failed: no reason"),
    Judged("ONNX Runtime", "dynamic", worth(100, 1, 1, 100.0)),
]


@pytest.mark.parametrize(
    ("ours", "cells"),
    [
        (worth(98, 900, 700, 3.0), (1, 0.9, 0.875, 3.0 / 2.2, "nothing")),
        (worth(96, 1000, 800, 2.15), (-1, 1.0, 1.0, 2.15 / 2.2, "nothing")),
        (worth(70, 1000, 800, 2.2), (-27, 1.0, 1.0, 1.0, "accuracy to Olive static")),
        (
            worth(97, 1200, 810, 2.0),
            (0, 1.2, 1.0125, 2.0 / 2.2, "bytes to Olive static, zipped to NNCF static, speed to NNCF static"),
        ),
    ],
)
def test_a_loss_is_one_to_the_best_peer_beyond_the_noise(ours: Figures, cells: tuple[float, ...]) -> None:
    ((net, what, accuracy, *rest),) = losses.rows("net", [Judged(OURS, "int8-u8s8", ours), *PEERS])
    assert (net, what) == ("net", "int8-u8s8")
    assert accuracy == pytest.approx(cells[0] / 100)
    assert tuple(rest) == cells[1:]


def test_what_we_refuse_and_a_peer_has_is_a_loss_with_its_reason() -> None:
    (row,) = losses.rows("net", [Judged(OURS, "int8-u8s8", why="refused: because"), *PEERS])
    assert row == ("net", "int8-u8s8", None, None, None, None, "refused: because")


def test_without_a_peer_there_is_nothing_to_lose() -> None:
    assert losses.rows("net", [Judged(OURS, "int8-u8s8", worth(98, 900, 700, 3.0)), PEERS[2]]) == []


def test_beside_the_peers_stands_what_they_have_something_like() -> None:
    kinds = [(OURS, "w4"), (OURS, "int8-u8s8"), (OURS, "int16x8"), ("NNCF", "static"), ("Olive", "float16")]
    rows = quantise.beside_peers("net", [Judged(by, what, why="none") for by, what in kinds])
    assert [row[1:3] for row in rows] == [(OURS, "int8-u8s8"), ("NNCF", "static"), ("Olive", "float16")]


def test_a_net_that_cannot_be_written_is_refused_in_every_precision(subject: Subject, tmp_path: Path) -> None:
    moody = Subject("moody", Moody(), subject.task, trained=True)
    found = contenders.ours(moody, Format.ONNX, tmp_path / "onnx")
    assert len(found) == len(contenders.targets(Format.ONNX))
    assert all(each.path is None and each.why.startswith("refused: ") and len(each.why) > 30 for each in found)
    judged = judging.judge(subject, found)
    assert [each.why for each in judged] == [each.why for each in found]
    assert all(each.figures is None for each in judged)


def test_a_file_that_does_not_run_says_why(subject: Subject, tmp_path: Path) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"not a graph")
    contract = {
        "format": "onnx",
        "inputs": [{"name": "input", "shape": [None, 8, 8], "real_type": "float32"}],
        "outputs": [],
    }
    (judged,) = judging.judge(subject, [Contender("NNCF", "static", broken, contract)])
    assert judged.why.startswith("failed: model.onnx: ")
    assert judged.figures is None


def test_one_net_goes_all_the_way(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Target(Format.ONNX, Precision.FP32), Target(Format.ONNX, Precision.INT8)]
    monkeypatch.setattr(contenders, "targets", lambda _: asked)
    monkeypatch.setattr(contenders, "PEERS", {"ONNX Runtime": ("static", "dynamic")})
    files = contenders.ours(subject, Format.ONNX, tmp_path / "ours")
    files += contenders.of_peers(subject, files[0], tmp_path / "peers")
    judged = judging.judge(subject, files, rounds=2)
    assert [(each.by, each.what, each.why) for each in judged] == [
        (OURS, "fp32", ""),
        (OURS, "int8", ""),
        ("ONNX Runtime", "static", ""),
        ("ONNX Runtime", "dynamic", ""),
    ]
    fp32, *quantised = [each.figures for each in judged if each.figures is not None]
    assert fp32.speed == Speed(1.0, 0.0)
    assert fp32.error < 1e-4
    assert fp32.accuracy > 0.5
    assert len(quantised) == 3
    for each in quantised:
        assert each.zipped_bytes < each.size_bytes < fp32.size_bytes / 2
        assert each.speed is not None
        assert each.speed.ratio > 0
        assert 1e-4 < each.error < 0.5
    assert all(None not in quantise.cells(each) for each in judged), "no cell of a file that runs is empty"


def test_our_job_leaves_three_files(subject: Subject, tmp_path: Path) -> None:
    weights, data = tmp_path / "net.pt", tmp_path / "data.npz"
    torch.save(subject.net.state_dict(), weights)
    task = subject.task
    calibration, selection = task.calibration.inputs[0], task.selection.inputs[0]
    np.savez(data, calibration=calibration, selection=selection, targets=task.selection.targets)
    (tmp_path / "out").mkdir()
    our_job.main(str(weights), str(data), str(tmp_path / "out"), "judged")
    sizes = [(tmp_path / "out" / name / "model.onnx").stat().st_size for name in ("fp32", "fp16", "int8")]
    assert sizes == sorted(sizes, reverse=True)


def test_a_peer_that_cannot_be_installed_has_a_row(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(peer: str) -> Path:
        raise PeerFailed(f"failed: no {peer} here")

    monkeypatch.setattr(environments, "interpreter", refuse)
    tables = wall_time.run(subject)
    assert [table.rows[0][1:] for table in tables if isinstance(table, Table)] == [
        ("Olive", "failed: no olive here")
    ] * 2


def test_a_peer_that_fails_is_told_by_its_last_line() -> None:
    with pytest.raises(PeerFailed, match=r"^failed: ValueError: no such operator$"):
        environments.run([sys.executable, "-c", "raise ValueError('no such operator')"], 60)
    with pytest.raises(PeerFailed, match=r"^failed: exit 3$"):
        environments.run([sys.executable, "-c", "raise SystemExit(3)"], 60)
    with pytest.raises(PeerFailed, match="not done within 0 s"):
        environments.run([sys.executable, "-c", "input()"], 0.0)


def test_peers_report_to_nobody() -> None:
    environments.run([sys.executable, "-c", "import os; os.environ['CI'], os.environ['NNCF_CI']"], 60)


def test_an_environment_is_made_once(tmp_path: Path) -> None:
    pinned = tmp_path / "peer.txt"
    pinned.write_text("numpy==2.4.6\n")
    digest = hashlib.sha256(pinned.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = tmp_path / "envs" / f"peer-{digest}"
    folder.mkdir(parents=True)
    (folder / ".installed").touch()
    assert environments.interpreter("peer", tmp_path, tmp_path / "envs") == folder / "bin" / "python"


@pytest.mark.parametrize("pinned", sorted(environments.PEERS.glob("*.txt")), ids=lambda path: path.stem)
def test_a_peer_is_pinned_to_the_last_package(pinned: Path) -> None:
    lines = pinned.read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.]*", line) for line in lines)
    runtimes = ("onnxruntime==", "onnx==", "torch==")
    ours, theirs = (
        {line for line in each if line.startswith(runtimes)}
        for each in ((environments.ROOT / "constraints.txt").read_text().splitlines(), lines)
    )
    assert theirs in (ours, set()), "or it is another runtime that is compared"  # one that moves files runs no net


@pytest.mark.parametrize("script", sorted(environments.PEERS.glob("*_*.py")), ids=lambda path: path.stem)
def test_a_peers_script_imports_nothing_of_ours(script: Path) -> None:
    tree = ast.parse(script.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in imported if name.startswith(("tools", "edgedeploy"))}
