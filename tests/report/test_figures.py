"""The picture is a figure that plotly accepts and that places, marks and names what the records say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from edgedeploy.records import Choice, Report, Variant
from edgedeploy.report.figures import COLOURS, Picture, histogram, picture
from edgedeploy.report.view import device_views
from tests.report.synthetic import KITCHEN, choice_on_kitchen, measured, two_boards, variants


def draw(made: Sequence[Variant], reports: Sequence[Report], choices: Sequence[Choice] = ()) -> Picture | None:
    [view] = device_views(made, reports, choices, [KITCHEN])
    return picture(view)


@pytest.fixture(scope="module")
def kitchen() -> Picture:
    page = two_boards()
    drawn = draw(page.variants, [r for r in page.reports if r.device == "kitchen"], page.choices[:1])
    assert drawn is not None
    return drawn


def markers(drawn: Picture) -> dict[str, dict[str, Any]]:
    """What is drawn at each point, by the name that leads its hover text."""
    found = {}
    for trace in drawn.figure["data"]:
        for index, hover in enumerate(trace.get("hovertext", ())):
            name = hover.split("<br>")[0].removeprefix("<b>").removesuffix("</b>")
            found[name] = {
                "x": trace["x"][index],
                "y": trace["y"][index],
                "symbol": trace["marker"]["symbol"][index],
                "colour": trace["marker"]["color"],
                "up": trace["error_y"]["array"][index],
                "right": trace["error_x"]["array"][index],
                "text": trace["text"][index],
                "hover": hover,
            }
    return found


def test_plotly_accepts_the_figure(kitchen: Picture) -> None:
    import plotly.graph_objects as go

    go.Figure(kitchen.figure)
    log = draw(variants()[:2], [measured(variants()[0], KITCHEN, 1.0), measured(variants()[1], KITCHEN, 50.0)])
    assert log is not None
    go.Figure(log.figure)


def test_format_precision_and_trust_show_in_the_marker(kitchen: Picture) -> None:
    found = markers(kitchen)
    assert found["plain-onnx-fp32"]["symbol"] == "circle"
    assert found["plain-tflite-fp32"]["symbol"] == "diamond"
    assert found["plain-tflite-int8"]["symbol"] == "diamond-open"  # suspect
    assert found["pruned-onnx-int8"]["symbol"] == "circle-open"  # mismatch
    assert {found[f"plain-tflite-{p}"]["colour"] for p in ("fp32", "fp16", "int8")} == set(COLOURS.values())
    assert kitchen.missing == ("plain-onnx-fp16", "pruned-tflite-fp16")


def test_points_stand_at_p50_and_quality_with_their_intervals(kitchen: Picture) -> None:
    point = markers(kitchen)["plain-tflite-int8"]
    assert point["x"] == 1.31
    assert point["y"] == pytest.approx(0.971)
    assert point["up"] == pytest.approx(0.01)
    assert point["right"] == pytest.approx(1.31 * 0.005)


def test_the_front_joins_the_ranked_and_the_winner_is_ringed_and_named(kitchen: Picture) -> None:
    [front] = [trace for trace in kitchen.figure["data"] if trace["mode"] == "lines"]
    assert front["x"] == [0.84, 1.31, 4.31]
    [ring] = [trace for trace in kitchen.figure["data"] if trace["mode"] == "markers"]
    assert ring["x"] == [0.84]
    [name] = kitchen.figure["layout"]["annotations"]
    assert name["text"] == "<b>pruned-tflite-int8</b>"
    assert [markers(kitchen)[n]["text"] for n in ("plain-tflite-int8", "plain-onnx-fp32")] == ["2", "3"]


def test_hover_tells_every_fact(kitchen: Picture) -> None:
    hover = markers(kitchen)["plain-tflite-int8"]["hover"].replace("<br>", " ")
    for told in (
        "tflite-int8",
        "0.971 (0.961 to 0.981)",
        "p90 1.32 ms",
        "init 5.00 ms",
        "168 kB",
        "throttled",
        "against 0.84",
    ):
        assert told in hover


def test_a_wide_spread_is_drawn_on_a_log_axis() -> None:
    [a, b] = variants()[:2]
    near = draw([a, b], [measured(a, KITCHEN, 1.0), measured(b, KITCHEN, 5.0)])
    far = draw([a, b], [measured(a, KITCHEN, 1.0), measured(b, KITCHEN, 50.0)])
    assert near is not None
    assert far is not None
    assert near.figure["layout"]["xaxis"]["type"] == "linear"
    assert far.figure["layout"]["xaxis"]["type"] == "log"
    choice = replace(choice_on_kitchen((a, b)), winner=b.name, ranking=(b.name,))
    named = draw([a, b], [measured(a, KITCHEN, 1.0), measured(b, KITCHEN, 100.0)], [choice])
    assert named is not None
    # An annotation on a log axis is placed by the exponent.
    assert named.figure["layout"]["annotations"][0]["x"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("winner_ms", "other_ms", "side"),
    [(1.0, 8.0, "left"), (4.0, 8.0, "center"), (8.0, 4.0, "right"), (1.0, 50.0, "left"), (50.0, 1.0, "right")],
)
def test_the_winners_name_stays_in_the_picture(winner_ms: float, other_ms: float, side: str) -> None:
    [a, b] = variants()[:2]
    choice = replace(choice_on_kitchen((a, b)), winner=b.name, ranking=(b.name,))
    drawn = draw([a, b], [measured(a, KITCHEN, other_ms), measured(b, KITCHEN, winner_ms)], [choice])
    assert drawn is not None
    assert drawn.figure["layout"]["annotations"][0]["xanchor"] == side


def test_what_has_no_place_is_left_out_and_named() -> None:
    [a, b, c] = variants()[:3]
    b = replace(b, quality=replace(b.quality, value=math.nan))
    drawn = draw([a, b, c], [measured(a, KITCHEN, 1.0), measured(b, KITCHEN, 1.0)])
    assert drawn is not None
    assert sorted(drawn.missing) == sorted([b.name, c.name])
    assert draw([a], []) is None


def test_a_histogram_drops_nothing() -> None:
    samples = [1_000_000 + 1000 * i for i in range(200)] + [90_000_000]
    drawn = histogram(samples)
    assert drawn is not None
    assert drawn.samples == 201
    assert (drawn.low_ms, drawn.high_ms) == (1.0, 90.0)
    assert drawn.tail_ms < 1.3
    assert max(drawn.bars) == 1.0
    assert drawn.bars[-1] > 0
    tallest = 201 / sum(drawn.bars)
    assert sum(round(bar * tallest) for bar in drawn.bars) == 201


def test_a_histogram_of_equal_samples_and_of_none() -> None:
    drawn = histogram([5, 5, 5])
    assert drawn is not None
    assert drawn.bars[0] == 1.0
    assert histogram([]) is None
