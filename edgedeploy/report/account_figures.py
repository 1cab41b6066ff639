"""Draws how a recipe's steps bring sizes and the metric down, and what is left in its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgedeploy.records import EXPORT, LayerAccount, StepAccount
from edgedeploy.report.figures import base_layout, plain
from edgedeploy.report.units import count, number, size

# Apart under every common colour blindness, and at least 3:1 against both the light and the dark page.
MEASURES = (
    ("parameter_bytes", "parameters", "#3274b5"),
    ("macs", "MACs", "#c1620e"),
    ("file_bytes", "file", "#15876b"),
    ("packed_bytes", "packed", "#9a6bc4"),
)
METRIC_COLOUR = "#858b94"
FLOAT_BITS = 32
ZEROS, BITS = "zeros, %", "bits a value"
TICKS = {ZEROS: [0, 50, 100], BITS: [0, 8, 16, 24, FLOAT_BITS]}
LONGEST_NAME = 36
WIDEST_LABEL = 10


@dataclass(frozen=True, slots=True)
class Drawn:
    """A plotly figure as plain JSON values, what it shows in words, and its key: pairs of a name and a colour."""

    figure: dict[str, Any]
    description: str
    key: tuple[tuple[str, str], ...]


def steps_figure(steps: Sequence[StepAccount], files: Sequence[str], metric: str, what: str) -> Drawn:
    """Bars of what each step left in per cent of the source, with the metric as a line above.

    `files` names the exported ones, the last steps. What was not measured has no bar.
    """
    names = [step.step for step in steps if step.step != EXPORT]
    labels = [*names, *files]
    source, passed = steps[0], len(names)
    drawn = [measure for measure in MEASURES if getattr(source, measure[0])]
    traces = [_bars(steps, labels, *measure) for measure in drawn]
    traces.append(_metric(steps[:passed], labels[:passed], 0, metric, "lines+markers"))
    traces.append(_metric(steps[passed:], labels[passed:], passed, metric, "markers"))
    key = tuple((name, colour) for _, name, colour in drawn)
    return Drawn(
        {"data": traces, "layout": _steps_layout(labels, passed, metric)}, _told(steps, labels, metric, what), key
    )


def layers_figure(layers: Sequence[LayerAccount], recipe: str) -> Drawn:
    """The share of zeros in each layer, the bits that number its values, and its sensitivity where that is known."""
    asked = any(layer.sensitivity is not None for layer in layers)
    panels = [
        (ZEROS, [100 * layer.sparsity for layer in layers], MEASURES[0][2]),
        (BITS, [FLOAT_BITS if layer.bits is None else layer.bits for layer in layers], MEASURES[2][2]),
    ]
    if asked:
        panels.append(("metric lost", [layer.sensitivity for layer in layers], MEASURES[1][2]))
    facts = [_layer_facts(layer) for layer in layers]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "x": values,
            "y": list(range(len(layers))),
            "xaxis": f"x{number}" if number > 1 else "x",
            "marker": {"color": colour, "opacity": [_opacity(title, layer) for layer in layers]},
            "text": [_bar_text(title, layer) for layer in layers],
            "textposition": "outside",
            "cliponaxis": False,
            "hoverinfo": "text",
            "hovertext": facts,
        }
        for number, (title, values, colour) in enumerate(panels, start=1)
    ]
    few = [layer.bits for layer in layers if layer.bits is not None]
    sparsest = max(layers, key=lambda layer: layer.sparsity)
    told = [
        f"Bars for {len(layers)} layers of {recipe}: the share of zeros and the bits that number the values.",
        f"Most zeros: {sparsest.layer} with {number(100 * sparsest.sparsity)} %." if sparsest.sparsity else "No zeros.",
        f"{len(few)} hold values that are shared: {_span(few)} bits number them." if few else "None shares values.",
    ]
    return Drawn({"data": traces, "layout": _layers_layout(layers, [p[0] for p in panels])}, " ".join(told), ())


def _bars(steps: Sequence[StepAccount], labels: Sequence[str], field: str, name: str, colour: str) -> dict[str, Any]:
    values = [getattr(step, field) for step in steps]
    shares = [None if value is None else 100 * value / values[0] for value in values]
    write = count if field == "macs" else size
    return {
        "type": "bar",
        "name": name,
        "x": list(range(len(steps))),
        "y": shares,
        "marker": {"color": colour},
        "hoverinfo": "text",
        "hovertext": [
            "" if share is None else f"<b>{plain(label)}</b><br>{name} {write(value)}, {number(share)} % of the source"
            for label, value, share in zip(labels, values, shares, strict=True)
        ],
    }


def _metric(steps: Sequence[StepAccount], labels: Sequence[str], first: int, metric: str, mode: str) -> dict[str, Any]:
    found = [step.quality for step in steps]
    return {
        "type": "scatter",
        "mode": mode,
        "name": metric,
        "yaxis": "y2",
        "x": [first + index for index in range(len(steps))],
        "y": [quality.value if quality else None for quality in found],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [quality.high - quality.value if quality else 0 for quality in found],
            "arrayminus": [quality.value - quality.low if quality else 0 for quality in found],
            "color": METRIC_COLOUR,
            "thickness": 1,
            "width": 3,
        },
        "line": {"color": METRIC_COLOUR, "width": 2},
        "marker": {"color": METRIC_COLOUR, "size": 9, "symbol": "diamond"},
        "hoverinfo": "text",
        "hovertext": [
            f"<b>{plain(label)}</b><br>{plain(metric)} "
            + (f"{number(step.quality.value)}" if step.quality else "not known")
            + (f", drop {number(step.drop.value)}" if step.drop else "")
            for label, step in zip(labels, steps, strict=True)
        ],
    }


def _told(steps: Sequence[StepAccount], labels: Sequence[str], metric: str, what: str) -> str:
    """The picture in words, for whoever does not see it."""
    told = [f"Bars of what each step of {what} left, in per cent of the source, and {metric} as a line above."]
    for step, label in zip(steps[1:], labels[1:], strict=True):
        shares = [
            f"{name} {number(100 * getattr(step, field) / getattr(steps[0], field))} %"
            for field, name, _ in MEASURES
            if getattr(step, field) is not None and getattr(steps[0], field)
        ]
        shares += [f"{metric} {number(step.quality.value)}"] if step.quality else []
        told.append(f"{label}{' file' if step.step == EXPORT else ''}: {', '.join(shares)}.")
    return " ".join([*told, "The table below holds all figures."])


def _layer_facts(layer: LayerAccount) -> str:
    bits = "floats" if layer.bits is None else f"{layer.bits} bits"
    lines = [
        f"<b>{plain(layer.layer)}</b>",
        " × ".join(map(str, layer.shape)),
        f"zeros {number(100 * layer.sparsity)} %",
        f"{count(layer.distinct)} values, {bits}",
    ]
    if layer.sensitivity is not None:
        lines.append(f"loses {number(layer.sensitivity)} of the metric alone")
    return "<br>".join(lines)


def _span(bits: Sequence[int]) -> str:
    return str(bits[0]) if min(bits) == max(bits) else f"{min(bits)} to {max(bits)}"


def _bar_text(title: str, layer: LayerAccount) -> str:
    if title == ZEROS:
        return f"{number(100 * layer.sparsity)} %" if layer.sparsity else "0"
    if title == BITS:
        return "float" if layer.bits is None else str(layer.bits)
    return "not known" if layer.sensitivity is None else number(layer.sensitivity)


def _opacity(title: str, layer: LayerAccount) -> float:
    return 0.35 if title == BITS and layer.bits is None else 1.0


def _broken(label: str) -> str:
    """In two lines where it is long."""
    return (
        (label.replace(" ", "<br>", 1) if " " in label else label.replace("-", "-<br>", 1))
        if len(label) > WIDEST_LABEL
        else label
    )


def _range(title: str, layers: Sequence[LayerAccount]) -> list[float]:
    """From the least to the most, with room for the text beside a bar."""
    if title in TICKS:
        return [0.0, 1.25 * TICKS[title][-1]]
    known = [layer.sensitivity for layer in layers if layer.sensitivity is not None]
    low, high = min(0.0, *known), max(0.0, *known)
    room = 0.25 * (high - low) or 1.0
    return [low - room if low < 0 else 0.0, high + room]


def _short(name: str) -> str:
    """A long name without its middle: both ends tell more."""
    if len(name) <= LONGEST_NAME:
        return name
    half = LONGEST_NAME // 2
    return f"{name[: half - 1]}…{name[-half:]}"


def _steps_layout(labels: Sequence[str], passed: int, metric: str) -> dict[str, Any]:
    axis = {"automargin": True, "zeroline": False, "showline": True, "ticks": "outside"}
    return {
        **base_layout(420),
        "bargap": 0.25,
        "bargroupgap": 0.05,
        "xaxis": {
            **axis,
            "tickvals": list(range(len(labels))),
            "ticktext": [_broken(plain(label)) for label in labels],
            "showgrid": False,
        },
        "yaxis": {
            **axis,
            "domain": [0, 0.6],
            "rangemode": "tozero",
            "title": {"text": "% of the source", "standoff": 12},
        },
        # In a panel of its own: a line across bars is lost among them.
        "yaxis2": {**axis, "domain": [0.68, 1], "nticks": 4, "title": {"text": plain(metric).replace(" (", "<br>(")}},
        # Steps follow one another up to here; the files after it stand side by side.
        "shapes": [
            {
                "type": "line",
                "xref": "x",
                "yref": "paper",
                "x0": passed - 0.5,
                "x1": passed - 0.5,
                "y0": 0,
                "y1": 1,
                "line": {"color": METRIC_COLOUR, "width": 1, "dash": "dot"},
            }
        ],
    }


def _layers_layout(layers: Sequence[LayerAccount], titles: Sequence[str]) -> dict[str, Any]:
    width, gap = 1 / len(titles), 0.03
    axes: dict[str, Any] = {}
    for number_, title in enumerate(titles, start=1):
        axes[f"xaxis{number_}" if number_ > 1 else "xaxis"] = {
            "domain": [(number_ - 1) * width + (gap if number_ > 1 else 0), number_ * width],
            "title": {"text": title, "standoff": 8},
            "zeroline": True,
            "automargin": True,
            "range": _range(title, layers),
            **({"tickvals": TICKS[title]} if title in TICKS else {"nticks": 4}),
        }
    return {
        **base_layout(90 + 26 * len(layers)),
        "bargap": 0.3,
        **axes,
        "yaxis": {
            "automargin": True,
            "autorange": "reversed",
            "tickvals": list(range(len(layers))),
            "ticktext": [plain(_short(layer.layer)) for layer in layers],
            "ticks": "outside",
            "ticklen": 6,
            "tickcolor": "rgba(0,0,0,0)",
            "showgrid": False,
            "zeroline": False,
        },
    }
