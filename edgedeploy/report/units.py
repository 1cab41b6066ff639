"""Writes numbers the way the page shows them: three significant digits, the unit always stated."""

from __future__ import annotations

import math

DIGITS = 3
_MINUS = "\N{MINUS SIGN}"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float) -> str:
    """`value` with three significant digits: 1,230 for 1234, and 1.20×10⁻⁶ for what is under a ten-thousandth."""
    if 0 < abs(value) < 1e-4:
        mantissa, _, exponent = f"{value:.{DIGITS - 1}e}".partition("e")
        return f"{mantissa}×10".replace("-", _MINUS) + str(int(exponent)).translate(_SUPERSCRIPT)
    return _fixed(value, _decimals(value))


def interval(value: float, low: float, high: float) -> tuple[str, str]:
    """A value and "low to high", all to the decimal place that gives the largest three significant digits."""
    finite = [abs(v) for v in (value, low, high) if math.isfinite(v)]
    decimals = _decimals(max(finite, default=0.0))
    return _fixed(value, decimals), f"{_fixed(low, decimals)} to {_fixed(high, decimals)}"


def ms(value: float) -> str:
    """Milliseconds."""
    return f"{number(value)} ms"


def ns_as_ms(value: float) -> str:
    """Nanoseconds, shown in milliseconds."""
    return ms(value / 1e6)


def mj(value: float) -> str:
    """Millijoules."""
    return f"{number(value)} mJ"


def size(value: float) -> str:
    """Bytes, in steps of 1000."""
    return _scaled(value, ("B", "kB", "MB", "GB", "TB"))


def count(value: float) -> str:
    """A count, in steps of 1000."""
    return _scaled(value, ("", "k", "M", "G")).rstrip()


def percent(probability: float) -> str:
    """A probability in percent; never a certainty that finite samples cannot give."""
    return "over 99.9 %" if probability > 0.999 else f"{number(probability * 100)} %"


def _scaled(value: float, steps: tuple[str, ...]) -> str:
    if not math.isfinite(value):
        return "not a number"
    if float(value).is_integer() and abs(value) < 1000:
        return f"{_fixed(value, 0)} {steps[0]}"
    step = 0
    while abs(value) >= 999.5 and step < len(steps) - 1:
        value, step = value / 1000, step + 1
    return f"{number(value)} {steps[step]}"


def _decimals(value: float) -> int:
    """Decimal places that show three significant digits of `value`; negative left of the point."""
    if value == 0 or not math.isfinite(value):
        return 0
    # Through the rounded text, so that 9.996 counts as 10.0.
    exponent = int(f"{value:.{DIGITS - 1}e}".partition("e")[2])
    return DIGITS - 1 - exponent


def _fixed(value: float, decimals: int) -> str:
    if not math.isfinite(value):
        return "not a number"
    text = f"{round(value, decimals):,.{max(decimals, 0)}f}"
    if text.startswith("-"):
        # A rounded-away negative is a plain zero.
        text = _MINUS + text[1:] if any(c in "123456789" for c in text) else text[1:]
    return text
