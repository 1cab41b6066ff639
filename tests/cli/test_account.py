"""The account of a variant as `show` prints it on a narrow terminal and as JSON."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from edgedeploy.cli import account, output
from edgedeploy.cli.words import count_text, percent_text
from edgedeploy.pipeline import Shown
from edgedeploy.records import Drop, LayerAccount, PassSettings, Quality, StepAccount, Variant
from tests.support.records import make_report, make_variant

CONTRACT: dict[str, Any] = {"inputs": [], "outputs": []}
QUALITY = Quality("accuracy", "selection", 0.9812, 0.97, 0.99, 300)
STEPS = (
    StepAccount("source", 132_874, 132_874, 4_210_000, 531_496, 559_208, 492_000, QUALITY),
    StepAccount(
        "prune-channels-gradually",
        66_437,
        66_437,
        2_105_000,
        265_748,
        291_400,
        256_000,
        None,
        Drop(0.0123, 0, 0.02, 300),
    ),
    StepAccount("sparsify", 66_437, 6_644, None, 265_748, None, None, QUALITY, Drop(-0.001, 0, 0, 300)),
    StepAccount("export", 66_437, None, 2_105_000, 70_000, 81_000, 61_000, QUALITY, Drop(0.0, 0, 0, 300)),
)
LAYERS = (
    LayerAccount("encoder.layers.0.self_attn.in_proj_weight", (192, 64), 0.9, 17, 5),
    LayerAccount("[stem].weight", (64, 64, 3, 3), 0.0, 36_864, None),
)
PASSES = (PassSettings("prune-channels-gradually", 1, {}), PassSettings("sparsify", 1, {}))


def variant(**changes: Any) -> Variant:
    return replace(make_variant(), **{"passes": PASSES, "steps": STEPS, "layers": LAYERS, **changes})


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    written = io.StringIO()
    monkeypatch.setattr(account, "out", Console(width=80, file=written, highlight=False))
    return written


def rows(text: str) -> list[list[str]]:
    return [line.replace(" k", "k").replace(" M", "M").replace(" %", "%").split() for line in text.splitlines()]


def test_each_step_is_a_row_of_a_narrow_terminal(narrow: io.StringIO) -> None:
    account.print_account(variant(), ())
    text = narrow.getvalue()
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    assert "the source has accuracy 0.9812 on 300 selection examples" in text
    lines = rows(text)
    assert ["step", "drop", "params", "zeros", "MACs", "file", "packed"] in lines
    assert ["source", "-", "133k", "0%", "4.21M", "559kB", "492kB"] in lines
    assert ["prune-channels-gradually", "+0.0123", "66.4k", "0%", "2.1M", "291kB", "256kB"] in lines
    assert ["sparsify", "-0.0010", "66.4k", "90%", "-", "-", "-"] in lines
    assert ["fp32", "file", "0", "66.4k", "-", "2.1M", "81kB", "61kB"] in lines
    assert "What the passes buy is not known: sparsify leaves a net of which no float32 file" in " ".join(text.split())


def test_each_layer_is_a_row_with_its_whole_name(narrow: io.StringIO) -> None:
    account.print_account(variant(), ())
    lines = rows(narrow.getvalue())
    assert ["layer", "shape", "zeros", "values", "bits"] in lines
    assert ["encoder.layers.0.self_attn.in_proj_weight", "192x64", "90%", "17", "5"] in lines
    assert ["[stem].weight", "64x64x3x3", "0%", "36.9k", "float"] in lines


def test_a_long_name_is_folded_and_sensitivity_shown_where_it_is_known(narrow: io.StringIO) -> None:
    name = "encoder.blocks.11.feed_forward.expanded.projection.linear.weight"
    layers = (replace(LAYERS[0], layer=name, sensitivity=0.0125), LAYERS[1])
    account.print_account(replace(variant(), layers=layers), ())
    text = narrow.getvalue()
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    lines = rows(text)
    assert ["layer", "shape", "zeros", "values", "bits", "sensitivity"] in lines
    at = next(number for number, line in enumerate(lines) if line[-1:] == ["+0.0125"])
    assert lines[at][0] + lines[at + 1][0] == name
    assert lines[-1][-2:] == ["float", "-"]


def test_a_long_step_is_folded_too(narrow: io.StringIO) -> None:
    long = replace(STEPS[1], step="choose-rate prune-channels-gradually")
    account.print_account(variant(steps=(STEPS[0], long, STEPS[3])), ())
    text = narrow.getvalue()
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    assert "prune-channels-gradually" in text.split()
    assert "291 kB" in text


def test_what_the_passes_buy_and_the_memory_of_the_boards_are_told(narrow: io.StringIO) -> None:
    known = (STEPS[0], replace(STEPS[1], parameters=66_437), STEPS[3])
    account.print_account(replace(variant(), steps=known), [make_report(make_variant())])
    text = narrow.getvalue()
    assert "The passes buy: file and arithmetic." in text
    assert "RAM on the board: 10 MB over the runtime's own on here." in text


def test_a_variant_without_passes_buys_nothing_by_them(narrow: io.StringIO) -> None:
    account.print_account(replace(variant(), passes=(), steps=(STEPS[0], STEPS[3])), ())
    text = narrow.getvalue()
    assert "passes buy" not in text
    assert "RAM on the board: not measured." in text


def test_what_was_built_before_accounts_were_kept_says_so(narrow: io.StringIO) -> None:
    account.print_account(make_variant(), ())
    assert narrow.getvalue() == "No account of its steps: it was built before they were kept.\n"


def test_the_account_is_among_the_records(capsys: pytest.CaptureFixture[str]) -> None:
    output.shown(Shown(replace(variant(), steps=STEPS[:2]), CONTRACT, (), {}), as_json=True)
    record = json.loads(capsys.readouterr().out)
    assert record["passes_buy"] == "file and arithmetic"
    assert record["variant"]["steps"][1]["drop"]["value"] == 0.0123
    assert record["variant"]["layers"][0]["bits"] == 5
    output.shown(Shown(make_variant(), CONTRACT, (), {}), as_json=True)
    assert json.loads(capsys.readouterr().out)["passes_buy"] is None


def test_what_is_nearly_all_or_nothing_is_not_called_so() -> None:
    assert [percent_text(share) for share in (0.0, 0.001, 0.5, 0.999, 1.0)] == ["0 %", "<1 %", "50 %", ">99 %", "100 %"]
    assert [count_text(count) for count in (0, 999, 1234, 4_210_000, 2.5e9)] == [
        "0",
        "999",
        "1.23 k",
        "4.21 M",
        "2.5 G",
    ]
