from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.on_device import models
from tests.on_device.virtual_board import VirtualBoard


@pytest.fixture
def board(tmp_path: Path) -> VirtualBoard:
    return VirtualBoard(tmp_path / "root")


@pytest.fixture
def variant(board: VirtualBoard, tmp_path: Path) -> dict[str, Any]:
    model = models.onnx_matmul()
    return board.variant(model, models.ONNX, models.probe_of(model, models.ONNX, tmp_path))


@pytest.fixture
def onnx_file(tmp_path: Path) -> str:
    (tmp_path / "m.onnx").write_bytes(models.onnx_matmul())
    return str(tmp_path / "m.onnx")


@pytest.fixture
def tflite_file(tmp_path: Path) -> str:
    (tmp_path / "m.tflite").write_bytes(models.tflite_dense())
    return str(tmp_path / "m.tflite")
