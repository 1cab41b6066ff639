"""What structured pruning leaves is an ordinary net: it goes into both formats and computes the same there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edgedeploy import export
from edgedeploy.compress import DropLayers, PruneChannels, PruneHeads, apply_passes
from edgedeploy.records import Format, Pass, Precision, Target
from tests.compress.measures import parameters

pytestmark = pytest.mark.builds


def families() -> dict[str, Any]:
    from torch import nn

    from tests.export import nets

    class Gru(nets.Gru):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(8, 48, 2, batch_first=True)

    return {"cnn": nets.Cnn, "gru": Gru, "transformer": nets.Transformer, "by hand": nets.Tokens}


CASES: dict[str, Sequence[Pass]] = {
    "cnn": [PruneChannels(0.4, round_to=8, importance="gradient")],
    "gru": [DropLayers(1)],
    "transformer": [DropLayers(1), PruneHeads(heads=3), PruneChannels(0.3, round_to=4)],
    "by hand": [PruneHeads(heads=2, importance="gradient"), PruneChannels(0.5, only=("*.mlp",))],
}


@pytest.mark.parametrize("family", CASES)
def test_what_is_left_goes_into_both_formats(tmp_path: Path, family: str) -> None:
    from tests.export import nets

    net = families()[family]
    task = nets.tokens_task() if net is nets.Tokens else nets.digits_task(net)
    model = nets.train(task, 2)
    before = parameters(model)
    model = apply_passes(model, CASES[family], task)
    assert parameters(model) < 0.8 * before
    for file_format in Format:
        folder = tmp_path / file_format
        folder.mkdir()
        target = Target(file_format, Precision.FP32)
        exported = export.export(model, target, task, folder)
        export.check_parity(exported, target, task)
