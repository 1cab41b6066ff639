"""The page tells what each step did, once for all files that share it, in pictures, figures and words."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from edgedeploy.records import (
    Drop,
    Format,
    LayerAccount,
    PassSettings,
    Precision,
    Quality,
    StepAccount,
    Target,
    Variant,
)
from edgedeploy.report.account import MOST_LAYERS, recipe_views
from edgedeploy.report.account_figures import MEASURES, layers_figure, steps_figure
from tests.report.synthetic import KITCHEN, Page, measured
from tests.report.test_page import Reader, read
from tests.support.records import make_variant


def quality(value: float) -> Quality:
    return Quality("accuracy", "selection", value, value - 0.01, value + 0.02, 300)


SOURCE = StepAccount("source", 1000, 1000, 50_000, 4000, 5000, 4500, quality(0.98))
SLIM = StepAccount("prune-channels", 500, 500, 20_000, 2000, 2500, 2300, quality(0.95), Drop(0.03, 0.02, 0.04, 300))
SPARSE = replace(
    SLIM, step="sparsify", nonzero_parameters=100, file_bytes=None, packed_bytes=None, quality=None, drop=None
)
FILE = StepAccount("export", 500, None, 20_000, 700, 900, 400, quality(0.97), Drop(0.01, 0.0, 0.02, 300))
LAYERS = (
    LayerAccount("stem.weight", (16, 1, 3, 3), 0.0, 144, None),
    LayerAccount("head.weight", (10, 16), 0.75, 17, 5, 0.004),
)
PASSES = (PassSettings("prune-channels", 1, {}), PassSettings("sparsify", 1, {}))


def variant(recipe: str, target: Target, *steps: StepAccount, layers: tuple[LayerAccount, ...] = LAYERS) -> Variant:
    made = replace(make_variant(f"{recipe}-{target}", target=target), steps=(*steps, FILE), layers=layers)
    return replace(made, passes=PASSES if len(steps) > 1 else ())


def slim() -> tuple[Variant, ...]:
    targets = [Target(Format.ONNX, p) for p in (Precision.FP32, Precision.INT8)] + [Target(Format.TFLITE, Precision.W8)]
    return tuple(variant("slim", target, SOURCE, SLIM, SPARSE) for target in targets)


@pytest.fixture(scope="module")
def reader() -> Reader:
    made = (*slim(), variant("plain", Target(Format.ONNX, Precision.FP32), SOURCE, layers=LAYERS[:1]))
    return read(Page(variants=made, reports=(measured(made[0], KITCHEN, 1.0),), devices=(KITCHEN,)))


def test_steps_are_drawn_once_for_the_files_of_a_recipe_and_format() -> None:
    plain, thin = recipe_views((variant("plain", Target(Format.ONNX, Precision.FP32), SOURCE), *slim()), ())
    assert [view.title for view in thin.steps] == ["onnx", "tflite"]
    names = [row.name for row in thin.steps[0].rows]
    assert names == ["source", "prune-channels", "sparsify", "slim-onnx-fp32", "slim-onnx-int8"]
    assert [row.exported for row in thin.steps[0].rows] == [False, False, False, True, True]
    assert (plain.open, thin.open) == (False, True)
    assert [view.passes for view in (plain, thin)] == [(), ("prune-channels", "sparsify")]
    assert recipe_views(slim(), ())[0].steps[0].bought is None
    kept = replace(slim()[0], steps=(SOURCE, SLIM, FILE))
    assert recipe_views([kept], ())[0].steps[0].bought == "file and arithmetic"


def test_a_batch_of_its_own_is_a_picture_of_its_own() -> None:
    both = [variant("a", Target(Format.ONNX, Precision.FP32, batch=batch), SOURCE, SLIM) for batch in (None, 4)]
    (view,) = recipe_views(both, ())
    assert [steps.title for steps in view.steps] == ["onnx", "onnx, batch 4"]


def test_bars_are_shares_of_the_source_and_what_is_unknown_has_none() -> None:
    drawn = steps_figure([SOURCE, SLIM, SPARSE, FILE], ["int8"], "accuracy (selection)", "slim as onnx")
    bars = {trace["name"]: trace["y"] for trace in drawn.figure["data"] if trace["type"] == "bar"}
    assert bars == {
        "parameters": [100, 50, 50, 17.5],
        "MACs": [100, 40, 40, 40],
        "file": [100, 50, None, 18],
        "packed": [100, pytest.approx(100 * 2300 / 4500), None, pytest.approx(100 * 400 / 4500)],
    }
    line, files = (trace for trace in drawn.figure["data"] if trace["type"] == "scatter")
    assert (line["x"], line["y"]) == ([0, 1, 2], [0.98, 0.95, None])
    assert (files["x"], files["y"], files["mode"]) == ([3], [0.97], "markers")
    assert line["error_y"]["array"][0] == pytest.approx(0.02)
    assert line["error_y"]["arrayminus"][0] == pytest.approx(0.01)
    assert drawn.figure["layout"]["xaxis"]["ticktext"] == ["source", "prune-<br>channels", "sparsify", "int8"]
    assert dict(drawn.key) == {name: colour for _, name, colour in MEASURES}
    json.dumps(drawn.figure, allow_nan=False)
    for told in (
        "Bars of what each step of slim as onnx left, in per cent of the source, and accuracy (selection) as a line",
        "prune-channels: parameters 50.0 %, MACs 40.0 %, file 50.0 %, packed 51.1 %, accuracy (selection) 0.950.",
        "sparsify: parameters 50.0 %, MACs 40.0 %.",
        "int8 file: parameters 17.5 %",
    ):
        assert told in drawn.description


def test_a_source_without_a_file_or_macs_leaves_those_bars_out() -> None:
    source = replace(SOURCE, file_bytes=None, packed_bytes=None, macs=None)
    drawn = steps_figure([source, FILE], ["fp32"], "accuracy (selection)", "plain as tflite")
    assert [trace["name"] for trace in drawn.figure["data"] if trace["type"] == "bar"] == ["parameters"]
    assert [name for name, _ in drawn.key] == ["parameters"]
    assert "fp32 file: parameters 17.5 %, accuracy (selection) 0.970." in drawn.description


def test_layers_have_bars_of_zeros_bits_and_sensitivity() -> None:
    drawn = layers_figure(LAYERS, "slim")
    zeros, bits, lost = drawn.figure["data"]
    assert (zeros["x"], zeros["text"]) == ([0, 75], ["0", "75.0 %"])
    assert (bits["x"], bits["text"]) == ([32, 5], ["float", "5"])
    assert (lost["x"], lost["text"]) == ([None, 0.004], ["not known", "0.00400"])
    assert drawn.figure["layout"]["yaxis"]["ticktext"] == ["stem.weight", "head.weight"]
    json.dumps(drawn.figure, allow_nan=False)
    assert "2 layers of slim" in drawn.description
    assert (
        "Most zeros: head.weight with 75.0 %. 1 hold values that are shared: 5 bits number them." in drawn.description
    )
    assert len(layers_figure(LAYERS[:1], "slim").figure["data"]) == 2


def test_layers_with_nothing_to_tell_are_not_drawn_and_of_many_the_largest_are() -> None:
    (view,) = recipe_views([variant("plain", Target(Format.ONNX, Precision.FP32), SOURCE, layers=LAYERS[:1])], ())
    assert view.layers is None
    many = tuple(LayerAccount(f"{i}.weight", (i + 1, 8), 0.5, 9, None) for i in range(MOST_LAYERS + 5))
    (view,) = recipe_views([variant("deep", Target(Format.ONNX, Precision.FP32), SOURCE, layers=many)], ())
    assert view.layers is not None
    assert view.left_out == 5
    shown = view.layers.figure["layout"]["yaxis"]["ticktext"]
    assert shown == [f"{i}.weight" for i in range(5, MOST_LAYERS + 5)]


def test_the_page_holds_the_pictures_and_the_figures(reader: Reader) -> None:
    pictures = {a["data-figure"] for a in reader.with_tag("div") if (a.get("class") or "").startswith("picture")}
    ids = {a.get("id") for a in reader.with_tag("script") if a.get("type") == "application/json"}
    assert {"recipe-1-1-figure", "recipe-1-2-figure", "recipe-1-layers", "recipe-2-1-figure"} <= pictures == ids
    text = reader.text
    for told in (
        "What each step did",
        "slim prune-channels, then sparsify",
        "plain no passes",
        "what the passes buy is not known: sparsify leaves a net of which no float32 file can be made",
        "prune-channels 0.950 (0.940 to 0.970) 0.0300 (0.0200 to 0.0400) 500 2.00 kB 0 % 20.0 k 2.50 kB 2.30 kB",
        "sparsify not known – 500 2.00 kB 80.0 % 20.0 k no such file no such file –",
        "slim-onnx-fp32 0.970 (0.960 to 0.990) 0.0100 (0.0000 to 0.0200) 500 700 B – 20.0 k 900 B 400 B 10.0 MB on",
        "400 B not measured",
    ):
        assert told in text, told
    folds = [a for a in reader.with_tag("details") if "open" in a]
    assert len(folds) == 1
    labels = [a.get("aria-label") or "" for a in reader.with_tag("div") if "data-figure" in a]
    assert all(label.startswith(("Bars", "Scatter")) for label in labels)


def test_a_page_of_variants_without_an_account_says_nothing_of_steps() -> None:
    text = read(Page(variants=(make_variant(),))).text
    assert "What each step did" not in text


def test_no_name_becomes_markup() -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    layers = (LayerAccount(hostile, (2, 2), 0.5, 2, 1),)
    passes: Any = (replace(SLIM, step=hostile),)
    made = variant(hostile, Target(Format.ONNX, Precision.FP32), SOURCE, *passes, layers=layers)
    found = read(Page(variants=(replace(made, recipe=hostile),)))
    assert "img" not in {tag for tag, _ in found.tags}
    figures = json.dumps(found.json)
    assert "&lt;/script&gt;" in figures
    assert "<img" not in figures
