"""Draws the latency-against-quality picture of a device, and the small histogram of a variant's samples."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgedeploy.records import Format, Precision, Quality, Report, Variant, Verdict
from edgedeploy.report.units import count, interval, mj, ms, number, size
from edgedeploy.report.view import DeviceView, Row

# Apart under every common colour blindness, and at least 3:1 against both the light and the dark page.
COLOURS = {Precision.FP32: "#3274b5", Precision.FP16: "#c1620e", Precision.INT8: "#15876b"}
SYMBOLS = {Format.ONNX: "circle", Format.TFLITE: "diamond"}

# From this ratio of slowest to fastest on, a linear axis squeezes the fast ones together.
LOG_FROM_RATIO = 8.0
BINS = 24
HOVER_WIDTH = 56


@dataclass(frozen=True, slots=True)
class Picture:
    """A plotly figure as plain JSON values, what it shows in words, and the names it could not place.

    `formats` and `precisions` are those that occur, with their plotly symbol and their colour.
    """

    figure: dict[str, Any]
    description: str
    formats: tuple[tuple[Format, str], ...]
    precisions: tuple[tuple[Precision, str], ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Bars as heights from 0 to 1 over equal steps from `low_ms`; the last holds everything from `tail_ms` up."""

    bars: tuple[float, ...]
    low_ms: float
    tail_ms: float
    high_ms: float
    samples: int


@dataclass(frozen=True, slots=True)
class _Point:
    row: Row
    variant: Variant
    report: Report
    p50_ms: float
    low_ms: float
    high_ms: float


def picture(view: DeviceView) -> Picture | None:
    """p50 latency against the metric for one device, or None where nothing can be placed."""
    points = [point for row in view.rows if (point := _point(row)) is not None]
    if not points:
        return None
    placed = {point.row.name for point in points}
    ranked = sorted((point for point in points if point.row.rank is not None), key=lambda point: point.p50_ms)
    traces = [_front(ranked)] if len(ranked) > 1 else []
    traces += [_ring(point) for point in points if point.row.winner]
    for precision, colour in COLOURS.items():
        group = [point for point in points if point.variant.target.precision is precision]
        if group:
            traces.append(_markers(group, str(precision), colour))
    slowest, fastest = max(p.p50_ms for p in points), min(p.p50_ms for p in points)
    log = slowest > LOG_FROM_RATIO * fastest
    names = [_winner_name(point, slowest, fastest, log=log) for point in points if point.row.winner]
    return Picture(
        figure={"data": traces, "layout": {**_layout(view.metric, log=log), "annotations": names}},
        description=_description(view, points, log=log),
        formats=tuple((f, s) for f, s in SYMBOLS.items() if any(p.variant.target.format is f for p in points)),
        precisions=tuple((p, c) for p, c in COLOURS.items() if any(q.variant.target.precision is p for q in points)),
        missing=tuple(row.name for row in view.rows if row.name not in placed),
    )


def histogram(samples_ns: Sequence[int]) -> Histogram | None:
    """Of all steady samples; nothing is dropped, the slowest percent shares the last bar. None without samples."""
    if not samples_ns:
        return None
    import numpy as np

    ordered = np.sort(np.asarray(samples_ns, dtype=np.int64))
    low, high = int(ordered[0]), int(ordered[-1])
    tail = max(int(ordered[int(len(ordered) * 0.99)]), low + 1)
    places = np.minimum((ordered - low) * (BINS - 1) // (tail - low), BINS - 1)
    bins = np.bincount(places, minlength=BINS).tolist()
    top = max(bins)
    return Histogram(tuple(n / top for n in bins), low / 1e6, tail / 1e6, high / 1e6, len(ordered))


def _point(row: Row) -> _Point | None:
    latency = row.report.metrics.latency if row.report else None
    if row.variant is None or row.report is None or latency is None:
        return None
    if not (math.isfinite(latency.p50_ms) and latency.p50_ms > 0 and math.isfinite(row.variant.quality.value)):
        return None
    return _Point(row, row.variant, row.report, latency.p50_ms, latency.p50_low_ms, latency.p50_high_ms)


def _front(ranked: Sequence[_Point]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [point.p50_ms for point in ranked],
        "y": [point.variant.quality.value for point in ranked],
        "line": {"color": "#858b94", "width": 1.5, "dash": "dot"},
        "hoverinfo": "skip",
    }


def _ring(winner: _Point) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [winner.p50_ms],
        "y": [winner.variant.quality.value],
        "marker": {"symbol": "circle-open", "size": 26, "color": "#b3261e", "line": {"width": 2.5}},
        "hoverinfo": "skip",
    }


def _winner_name(winner: _Point, slowest_ms: float, fastest_ms: float, *, log: bool) -> dict[str, Any]:
    """The winner's name above its point, to the side of it where the picture ends near by."""
    part = winner.p50_ms / slowest_ms
    if log:
        part = math.log(winner.p50_ms / fastest_ms) / math.log(slowest_ms / fastest_ms)
    return {
        "x": math.log10(winner.p50_ms) if log else winner.p50_ms,
        "y": winner.variant.quality.value,
        "text": f"<b>{plain(winner.row.name)}</b>",
        "showarrow": False,
        "xanchor": "left" if part < 0.2 else "right" if part > 0.8 else "center",
        "yshift": 22,
    }


def _markers(group: Sequence[_Point], name: str, colour: str) -> dict[str, Any]:
    qualities = [point.variant.quality for point in group]
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": name,
        "x": [point.p50_ms for point in group],
        "y": [quality.value for quality in qualities],
        "error_x": _bars(colour, [p.high_ms - p.p50_ms for p in group], [p.p50_ms - p.low_ms for p in group]),
        "error_y": _bars(colour, [q.high - q.value for q in qualities], [q.value - q.low for q in qualities]),
        "marker": {
            "symbol": [SYMBOLS[p.variant.target.format] + ("" if _solid(p) else "-open") for p in group],
            "size": 11,
            "color": colour,
            "line": {"width": 2, "color": colour},
        },
        "text": [_label(point.row) for point in group],
        "textposition": "top right",
        "cliponaxis": False,
        "hoverinfo": "text",
        "hovertext": ["<br>".join(_facts(point)) for point in group],
    }


def _bars(colour: str, above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
    def clean(lengths: Sequence[float]) -> list[float]:
        return [length if math.isfinite(length) and length > 0 else 0.0 for length in lengths]

    return {
        "type": "data",
        "symmetric": False,
        "array": clean(above),
        "arrayminus": clean(below),
        "color": colour,
        "thickness": 1,
        "width": 3,
    }


def _solid(point: _Point) -> bool:
    return point.row.believable and point.report.verdict is Verdict.VALID


def _label(row: Row) -> str:
    return "" if row.rank is None or row.winner else str(row.rank)


def _facts(point: _Point) -> list[str]:
    """Every fact about a point, one a line, in the little HTML that plotly reads: so all text is escaped."""
    variant, report, metrics = point.variant, point.report, point.report.metrics
    latency = metrics.latency
    assert latency is not None
    p50, p50_bounds = interval(latency.p50_ms, latency.p50_low_ms, latency.p50_high_ms)
    lost, lost_bounds = interval(variant.drop.value, variant.drop.low, variant.drop.high)
    p90 = point.row.part("p90", latency.p90_ms)
    first = point.row.part("first inference", latency.first_inference_ms)
    lines = [
        f"<b>{plain(variant.name)}</b>",
        str(variant.target),
        f"{plain(variant.quality.metric)} {_bounded(variant.quality)}, drop {lost} ({lost_bounds})",
        f"p50 {p50} ms ({p50_bounds}), p90 {plain(p90)}",
        f"init {ms(latency.init_ms)}, first inference {plain(first)}",
        (
            f"file {size(variant.artifact.size_bytes)}, packed {size(variant.packed.size_bytes)},"
            f" {count(variant.parameters)} parameters"
        ),
        "peak RSS over runtime "
        + (
            size(metrics.rss_over_runtime_bytes)
            if metrics.rss_over_runtime_bytes is not None
            else f"not measured: {plain(point.row.absent('memory'))}"
        ),
        "energy " + (mj(metrics.energy.total_mj) if metrics.energy else "not measured"),
        f"{report.outcome.replace('_', ' ')}, {report.verdict}"
        + (f": {plain('; '.join(report.reasons))}" if report.reasons else ""),
    ]
    if point.row.winner:
        lines.append("the winner")
    elif point.row.why:
        lines.append(plain(f"not the winner: {point.row.why}"))
    return [
        line
        for long in lines
        for line in textwrap.wrap(long, HOVER_WIDTH, break_long_words=False, break_on_hyphens=False)
    ]


def _bounded(quality: Quality) -> str:
    value, bounds = interval(quality.value, quality.low, quality.high)
    return f"{value} ({bounds})"


def plain(text: str) -> str:
    """Text for the little HTML that plotly reads."""
    return html.escape(text, quote=False)


def base_layout(height: int) -> dict[str, Any]:
    """What all pictures have in common; `height` in pixels. Their colours are those of the page."""
    return {
        "showlegend": False,
        "hovermode": "closest",
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#858b94", "activecolor": "#3274b5"},
        "height": height,
        "margin": {"l": 12, "r": 24, "t": 28, "b": 12},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "inherit", "size": 13},
        "hoverlabel": {
            "align": "left",
            "bgcolor": "#1d2127",
            "bordercolor": "#858b94",
            "font": {"color": "#f2f4f6", "size": 12},
        },
    }


def _layout(metric: str, *, log: bool) -> dict[str, Any]:
    axis = {"automargin": True, "zeroline": False, "showline": True, "ticks": "outside"}
    return {
        **base_layout(440),
        "xaxis": {
            **axis,
            "type": "log" if log else "linear",
            "title": {"text": "p50 latency, ms" + (" (logarithmic)" if log else ""), "standoff": 12},
            # Powers of ten alone leave a log axis of one decade nearly bare.
            **({"dtick": "D2", "minorloglabels": "complete"} if log else {"rangemode": "tozero"}),
        },
        "yaxis": {**axis, "title": {"text": plain(metric), "standoff": 12}},
    }


def _description(view: DeviceView, points: Sequence[_Point], *, log: bool) -> str:
    """The picture in words, for whoever does not see it."""
    fastest = min(points, key=lambda point: point.p50_ms)
    best = max(points, key=lambda point: point.variant.quality.value)
    told = [
        (
            f"Scatter plot of {len(points)} variants on {view.name}: p50 latency in milliseconds"
            f"{' (logarithmic)' if log else ''} against {view.metric}, with 95 % intervals."
        ),
        f"Fastest: {fastest.row.name} at {ms(fastest.p50_ms)}.",
        f"Best {best.variant.quality.metric}: {best.row.name} at {number(best.variant.quality.value)}.",
    ]
    if view.winner is not None:
        told.append(f"Winner: {view.winner.name}.")
    return " ".join([*told, "The table below holds all figures."])
