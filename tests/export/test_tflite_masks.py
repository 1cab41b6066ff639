"""Masks of every kind keep out of an integer file what they keep out of the net."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgedeploy import export
from edgedeploy.export.tflite_masks import BOUND
from edgedeploy.records import Format, Precision, Target
from tests.export.nets import make_task

pytestmark = pytest.mark.builds

EXAMPLES, STEPS, WIDTH = 128, 6, 8
ROWS = np.random.default_rng(0).choice([-1.0, 1.0], (EXAMPLES, STEPS, WIDTH)).astype(np.float32)
PADDING = np.arange(STEPS) >= np.random.default_rng(1).integers(1, STEPS + 1, (EXAMPLES, 1))


Mix = Callable[["Masked", torch.Tensor, torch.Tensor], torch.Tensor]


class Masked(nn.Module):
    """Sums up rows by weights, of which some are masked."""

    def __init__(self, mix: Mix) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.score, self.head = nn.Linear(WIDTH, 1), nn.Linear(WIDTH, 3)
        self.mix = mix

    def scores(self, rows: torch.Tensor) -> torch.Tensor:
        products: torch.Tensor = self.query(rows) @ self.key(rows).transpose(1, 2)
        return products

    def forward(self, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.mix(self, rows, mask))
        return logits


def added(net: Masked, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (net.scores(rows) + mask[:, None]).softmax(-1) @ rows


def by_zero_and_one(net: Masked, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return added(net, rows, (1.0 - mask) * -10000.0)


def finite(net: Masked, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return net.scores(rows).masked_fill(mask[:, None], -1e9).softmax(-1) @ rows


def over_time(net: Masked, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights: torch.Tensor = net.score(rows.tanh()).masked_fill(mask[..., None], -1e9).softmax(1)
    return (rows * weights).sum(1)


def maximum(net: Masked, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    past = torch.full((STEPS, STEPS), -math.inf).triu(1)
    allowed = (net.scores(rows) + past).masked_fill(mask[:, None], -math.inf)
    return rows * allowed.amax(-1, keepdim=True).masked_fill(mask[..., None], 0.0)


MASKS: dict[Mix, np.ndarray] = {
    added: np.where(PADDING, -np.inf, 0.0).astype(np.float32),
    by_zero_and_one: (~PADDING).astype(np.float32),
    finite: PADDING,
    over_time: PADDING,
    maximum: PADDING,
}


@pytest.mark.parametrize("mix", MASKS)
def test_what_is_masked_stays_so_in_integers(tmp_path: Path, mix: Mix) -> None:
    torch.manual_seed(0)
    net = Masked(mix).eval()
    task = make_task(lambda: net, (ROWS, MASKS[mix]))
    task = dataclasses.replace(task, calibration=task.selection)  # no range is too narrow: what strays is the mask
    source = export.convert(net, Format.TFLITE, task, tmp_path)
    for precision, allowed in ((Precision.INT8, 0.04), (Precision.INT16X8, 0.01)):
        target = Target(Format.TFLITE, precision)
        exported = export.quantise(source, target, task, tmp_path)
        assert export.check_parity(exported, target, task).relative_rms_error < allowed
        [why] = {use.why for use in exported.operators if use.operator in ("ADD", "EXP", "SELECT_V2") and use.why}
        assert "mask" in why
        assert "fp32" not in {use.arithmetic for use in exported.operators if use.operator == "FULLY_CONNECTED"}


def test_a_mask_that_comes_as_an_input_has_a_bound(tmp_path: Path) -> None:
    net = Masked(added).eval()
    task, target = make_task(lambda: net, (ROWS, MASKS[added])), Target(Format.TFLITE, Precision.INT8)
    rows, mask = export.export(net, target, task, tmp_path).contract["inputs"]
    assert rows["scale"] * 255 == pytest.approx(2.0, rel=1e-3)
    assert mask["scale"] * 255 == pytest.approx(BOUND, rel=1e-3)
