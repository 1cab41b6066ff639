"""What an Android phone calls itself, from its `getprop`."""

from __future__ import annotations

import re

# A value may hold brackets itself, and line breaks.
_PROPERTY = re.compile(r"^\[([\w.:@-]+)\]: \[(.*?)\]$", re.MULTILINE | re.DOTALL)


def parse_getprop(text: str) -> dict[str, str]:
    """The system properties by name, as `getprop` prints them: `[name]: [value]`, one a line."""
    return {match[1]: match[2] for match in _PROPERTY.finditer(text.replace("\r\n", "\n"))}


def phone_name(properties: dict[str, str]) -> str:
    """Maker, model and release, such as `Google Pixel 8, Android 14`; empty where it is no Android."""
    maker = properties.get("ro.product.manufacturer", "").strip()
    model = properties.get("ro.product.model", "").strip()
    release = properties.get("ro.build.version.release", "").strip()
    # many a maker puts its name into the model too
    name = model if model.lower().startswith(maker.lower()) else f"{maker} {model}".strip()
    parts = [name, f"Android {release}" if release else ""]
    return "".join(each if each.isprintable() else "?" for each in ", ".join(part for part in parts if part))[:100]
