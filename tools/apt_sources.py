"""The machine's own sources of Debian packages, from which boards and phones for the tests are made."""

from __future__ import annotations

import re
from pathlib import Path

SOURCES = Path("/etc/apt")


def debian_sources(codename: str, folder: Path = SOURCES, *, backports: bool = False) -> tuple[str, str]:
    """The name that apt wants for such a file, and what this machine says there of one release of Debian.

    `backports` adds that suite. Where there are sources in both of apt's formats, those in the newer one count. Raises
    FileNotFoundError where there are none.
    """
    release = rf"(?<=[\s:]){codename}\b"
    stanzas, lines = [], []
    for path in sorted(folder.glob("sources.list.d/*.sources")):
        stanzas += [
            stanza.strip()
            for stanza in re.split(r"\n\s*\n", path.read_text("utf-8"))
            if re.search(rf"^Suites:.*{release}", stanza, re.MULTILINE)
        ]
    for path in [folder / "sources.list", *sorted(folder.glob("sources.list.d/*.list"))]:
        if path.is_file():
            lines += re.findall(rf"^deb .*{release}.*$", path.read_text("utf-8"), re.MULTILINE)
    if not stanzas and not lines:
        raise FileNotFoundError(f"{folder} names no source of Debian {codename}")
    name, text = ("debian.sources", "\n\n".join(stanzas)) if stanzas else ("debian.list", "\n".join(lines))
    return name, with_backports(text, codename) if backports else f"{text}\n"


def with_backports(sources: str, codename: str) -> str:
    """Sources of apt, in either of its formats, with the release's backports beside the release."""
    suite = rf"(?<=[\s:]){codename}(?!\S)"
    lines = []
    for line in sources.splitlines():
        if line.startswith("Suites:"):
            line = re.sub(suite, f"{codename} {codename}-backports", line)
        lines.append(line)
        if line.startswith("deb ") and re.search(suite, line):
            lines.append(re.sub(suite, f"{codename}-backports", line, count=1))
    return "\n".join(lines) + "\n"
