"""The bench of compressing: every technique can be asked for, and what is counted from what came out."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedeploy.compress import PASSES
from tools.bench import compress, fusion, trying
from tools.bench.compress_peers import PEERS
from tools.bench.rows import OURS
from tools.bench.subjects import digits_subject
from tools.bench.techniques import CNN, TECHNIQUES, Technique
from tools.bench.trying import NETS, Tried


def test_every_technique_has_a_name_and_passes_that_a_plan_takes() -> None:
    names = [technique.name for technique in TECHNIQUES]
    assert len(set(names)) == len(names)
    assert not set(names) & set(PEERS)
    for technique in TECHNIQUES:
        for net in NETS:
            assert len(trying.passes_of(technique, net)) == len(technique.of(net))
        assert set(technique.families) <= set(NETS)


def test_every_pass_of_the_catalogue_is_tried() -> None:
    tried = {table["kind"] for technique in TECHNIQUES for net in NETS for table in technique.of(net)}
    assert tried == set(PASSES)


def of_seed(before: float, after: float | None, why: str = "") -> list[Tried]:
    source = Tried("source", OURS, before, 100, 100, 1000)
    return [source, Tried("half", OURS, after, 50, 40, 500, why=why)]


def test_a_row_holds_means_and_the_worst_loss_of_the_seeds() -> None:
    [row] = compress.matrix_rows("digits CNN", [of_seed(0.98, 0.97), of_seed(0.99, 0.95), of_seed(0.97, 0.98)])
    assert row[:6] == ("half", OURS, "digits CNN", 0.98, 0.9667, 0.04)
    assert row[6:9] == (50, 40, 500)


def test_a_refusal_of_one_seed_is_a_row_without_figures() -> None:
    [row] = compress.matrix_rows("digits GRU", [of_seed(0.98, 0.97), of_seed(0.98, None, "half: there is nothing")])
    assert row == ("half", OURS, "digits GRU", *[None] * 7, "half: there is nothing")


@pytest.mark.builds
def test_one_net_is_tried_for_real(tmp_path: Path) -> None:
    subject = digits_subject("digits MLP", NETS["digits MLP"], epochs=1)
    control = trying.tried(Technique("control", ({"kind": "fine-tune", "epochs": 1},)), subject, tmp_path)
    assert control.accuracy is not None
    assert control.files is not None
    for file in control.files.values():
        assert file.path is not None
        assert file.size_bytes == file.path.stat().st_size
        assert file.packed_bytes is not None
        assert 0 < file.packed_bytes < file.size_bytes
    assert control.macs == 64 * 300 + 300 * 100 + 100 * 10
    refused = trying.tried(Technique("heads", ({"kind": "prune-heads", "ratio": 0.5},)), subject, None)
    assert refused.accuracy is None
    assert "prune-heads" in refused.why


@pytest.mark.builds
def test_fusing_is_measured_on_one_file_with_and_without() -> None:
    subject = digits_subject("cnn", NETS[CNN], epochs=1)
    net, before, after, speed_up, spread = fusion.row(subject, rounds=2)
    assert net == "cnn"
    assert isinstance(before, int)
    assert isinstance(after, int)
    assert after < before  # a convolution takes its ReLU along
    assert isinstance(speed_up, float)
    assert speed_up > 0
    assert isinstance(spread, float)
