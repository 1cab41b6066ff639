"""Sources of packages are the machine's own, in whichever format it has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.apt_sources import debian_sources, with_backports


def test_a_machine_without_any_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="names no source of Debian bookworm"):
        debian_sources("bookworm", tmp_path)


def test_other_sources_and_comments_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(
        "# deb file:/mirror bookworm main\n"
        "deb [arch=amd64] file:/mirror bookworm main\n"
        "deb file:/security bookworm-security main\ndeb file:/bookworm stable main\ndeb file:/other x-bookworm main\n"
    )
    name, text = debian_sources("bookworm", tmp_path, backports=True)
    assert name == "debian.list"
    assert text.splitlines() == [
        "deb [arch=amd64] file:/mirror bookworm main",
        "deb [arch=amd64] file:/mirror bookworm-backports main",
        "deb file:/security bookworm-security main",
    ]
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(
        "Types: deb\nURIs: file:/mirror\nSuites: bookworm bookworm-updates\n\n"
        "Types: deb\nURIs: file:/security\nSuites: bookworm-security\n\n"
        "Types: deb\nURIs: file:/other\nSuites: stable\n"
    )
    name, text = debian_sources("bookworm", tmp_path, backports=True)
    assert name == "debian.sources"
    suites = [line for line in text.splitlines() if line.startswith("Suites")]
    assert suites == ["Suites: bookworm bookworm-backports bookworm-updates", "Suites: bookworm-security"]
    assert "backports" not in debian_sources("bookworm", tmp_path)[1]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ("Suites: bookworm bookworm-updates\n", "Suites: bookworm bookworm-backports bookworm-updates\n"),
        ("Suites: bookworm-security\n", "Suites: bookworm-security\n"),
        ("deb file:/x bookworm main\n", "deb file:/x bookworm main\ndeb file:/x bookworm-backports main\n"),
        ("# deb file:/x bookworm main\n", "# deb file:/x bookworm main\n"),
    ],
)
def test_backports_stand_beside_the_release(sources: str, expected: str) -> None:
    assert with_backports(sources, "bookworm") == expected
