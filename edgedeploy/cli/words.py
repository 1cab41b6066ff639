"""How the command line writes numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

from edgedeploy.records import CPU, LayerSensitivity, OperatorUse, PassSettings, Quality, Report, Variant

NOT_MEASURED = "-"


def plural(things: Sized, noun: str) -> str:
    """The noun, with an s where there is not exactly one thing."""
    return noun if len(things) == 1 else noun + "s"


def bytes_text(size_bytes: float) -> str:
    """A size in the decimal units of file managers and data sheets."""
    for unit in ("B", "kB", "MB"):
        if abs(size_bytes) < 999.5:
            return f"{size_bytes:.3g} {unit}" if unit != "B" else f"{size_bytes:.0f} B"
        size_bytes /= 1000
    return f"{size_bytes:.3g} GB"


def count_text(count: float) -> str:
    """A number of things in three digits: 12.3 k."""
    for unit in ("", " k", " M"):
        if abs(count) < 999.5:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g} G"


def percent_text(share: float) -> str:
    """A share in whole per cents; what is not quite none or all of it is not called so."""
    percents = round(100 * share)
    if percents == 0 and share > 0:
        return "<1 %"
    if percents == 100 and share < 1:
        return ">99 %"
    return f"{percents} %"


def milliseconds(value_ms: float | None) -> str:
    """Three significant digits, or the mark of what was not measured."""
    return NOT_MEASURED if value_ms is None else f"{value_ms:.3g}"


def or_absent(text: str | None) -> str:
    """The text, or the mark of what was not measured."""
    return NOT_MEASURED if text is None else text


def signed(value: float) -> str:
    """A difference with its sign; zero has none."""
    return f"{value:+.4f}" if value else "0"


def accuracy(quality: Quality) -> str:
    """The metric with the bounds of its interval."""
    return f"{quality.value:.4f} [{quality.low:.4f}, {quality.high:.4f}]"


def on_text(reports: Iterable[Report]) -> str:
    """What the reports were asked to run on, where that is not the CPU."""
    names = dict.fromkeys(r.conditions.accelerator for r in reports if r.conditions.accelerator != CPU)
    return f" on {', '.join(names)}" if names else ""


def passes_text(variant: Variant) -> str:
    """The passes in a line, each with its settings, but for those that are left out."""
    if not variant.passes:
        return "as it is"
    return ", then ".join(map(_pass_text, variant.passes))


def _pass_text(step: PassSettings) -> str:
    given = [f"{key}={value}" for key, value in step.settings.items() if value not in (None, [], "")]
    return f"{step.kind} ({', '.join(given)})" if given else step.kind


def sensitivity_text(layer: LayerSensitivity) -> str:
    """What one layer alone buys when it stays in float."""
    return (
        f"{layer.layer}: in float recovers {signed(layer.drop_recovered)} of the metric and "
        f"{layer.error_recovered:.2g} of the outputs' error, for {layer.latency_cost_us:+.1f} us"
    )


def tensors_text(tensors: Sequence[Mapping[str, Any]]) -> str:
    """The tensors of a contract in a line: name, shape with `n` for any batch, type, and its quantisation."""
    texts = []
    for tensor in tensors:
        shape = " x ".join("n" if size is None else str(size) for size in tensor["shape"])
        text = f"{tensor['name']} {shape} {tensor['type']}"
        if tensor["scale"] is not None:
            text += f", real = {tensor['scale']:.4g} x (value - {tensor['zero_point']})"
        texts.append(text)
    return "; ".join(texts)


def operator_text(use: OperatorUse) -> str:
    """How many operators of a type there are, what they compute in, and why not in integers."""
    stored = f", weights {use.weights}" if use.weights and use.weights != use.arithmetic else ""
    return f"{use.count} {use.operator}: {use.arithmetic}{stored}" + (f" ({use.why})" if use.why else "")
