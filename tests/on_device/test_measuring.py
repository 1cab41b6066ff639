"""Repetitions visit the variants in a seeded random order; energy comes from the board's own sensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgedeploy.on_device.children import Children
from edgedeploy.on_device.measuring import Measurement
from tests.on_device import models
from tests.on_device.test_power import lay
from tests.on_device.virtual_board import VirtualBoard, profile


class Recorder(Children):
    """Real children, but notes what was asked of them; latency runs are answered without a process."""

    def __init__(self, workspace: str) -> None:
        super().__init__(workspace)
        self.asked: list[tuple[str, str]] = []

    def run(self, task: str, specification: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        self.asked.append((task, specification.get("artifact", "")[-64:]))
        if task != "latency":
            return {"outcome": "ok", "detail": "", "runtime": "r", "peak_rss_bytes": 2, "pss_bytes": None}
        phases = {"init_ns": 1, "first_inference_ns": 1, "warm_up_runs": 1, "warm_up_converged": True}
        return {"outcome": "ok", "detail": "", "samples_ns": [1], "steady_ns": [0, 1], **phases}


def rounds(tmp_path: Path, seed: int) -> list[list[str]]:
    board = VirtualBoard(tmp_path / f"root-{seed}-{len(list(tmp_path.iterdir()))}")
    probe = models.probe(models.EXAMPLES, models.EXAMPLES)
    variants = [board.variant(bytes([place]) * 8, models.ONNX, probe, id=str(place)) for place in range(4)]
    recorder = Recorder(str(tmp_path))
    Measurement(profile(*variants, seed=seed, repetitions=6), str(board.root), recorder, str(tmp_path)).run()
    names = {variant["artifact"]: variant["id"] for variant in variants}
    asked = [names[artifact] for task, artifact in recorder.asked if task == "latency"]
    return [asked[start : start + 4] for start in range(0, len(asked), 4)]


def test_every_round_visits_every_variant_in_an_order_of_its_own(tmp_path: Path) -> None:
    first = rounds(tmp_path, seed=1)
    assert len(first) == 6
    assert all(sorted(one) == ["0", "1", "2", "3"] for one in first)
    assert len({tuple(one) for one in first}) > 1
    assert rounds(tmp_path, seed=1) == first
    assert rounds(tmp_path, seed=2) != first


def test_the_baseline_of_a_runtime_is_weighed_once(tmp_path: Path) -> None:
    board = VirtualBoard(tmp_path / "root")
    probe = models.probe(models.EXAMPLES, models.EXAMPLES)
    variants = [board.variant(bytes([place]) * 8, models.ONNX, probe, id=str(place)) for place in range(3)]
    recorder = Recorder(str(tmp_path))
    Measurement(profile(*variants), str(board.root), recorder, str(tmp_path)).run()
    assert [task for task, _ in recorder.asked].count("baseline") == 1
    assert [task for task, _ in recorder.asked].count("memory") == 3


def test_energy_is_measured_where_the_board_has_a_sensor(tmp_path: Path) -> None:
    rail = "sys/bus/i2c/devices/1-0040/hwmon/hwmon3/"
    lay(tmp_path, {rail + "in1_label": "VDD_IN", rail + "in1_input": "5000", rail + "curr1_input": "1000"})
    board = VirtualBoard(tmp_path / "root")
    model = models.onnx_matmul()
    variant = board.variant(model, models.ONNX, models.probe_of(model, models.ONNX, tmp_path))
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (result,) = Measurement(
        profile(variant, repetitions=1, min_seconds=2.0), str(board.root), Children(str(workspace)), str(tmp_path)
    ).run()
    energy = result["energy"]
    assert energy is not None, result["absent"]
    (repetition,) = result["repetitions"]
    seconds = sum(repetition["samples_ns"]) / 1e9
    runs = len(repetition["samples_ns"])
    # The window also holds the loop around the calls.
    assert energy["total_mj"] == pytest.approx(5 * max(seconds, 2.0) / runs * 1e3, rel=0.2)
    assert energy["above_idle_mj"] == pytest.approx(0, abs=1e-9)
    assert (energy["source"], energy["scope"]) == ("ina3221", "module (rail VDD_IN)")
    assert energy["coverage"] >= 0.95
    assert "energy" not in result["absent"]
