"""Where no phone can be had, the tests of phones say why and do not pass in silence."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from tests import phones
from tests.phones import a_phone
from tools import adbd
from tools.adbd import NoAdbd, NoNamespaces, fetch_adbd, phone


@pytest.fixture
def empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is the whole PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_without_adb_it_says_what_to_install(empty_path: Path) -> None:
    assert not list(empty_path.iterdir())
    with pytest.raises(NoAdbd, match=r"adb and unshare are needed \(Debian: adb, util-linux\)"), phone():
        pass


def test_what_cannot_be_fetched_is_said_and_not_tried_again(
    empty_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adbd, "CACHE", tmp_path / "cache")
    calls = tmp_path / "calls"
    apt = empty_path / "apt-get"
    apt.write_text(f"#!/bin/sh\necho $3 >>{calls}\necho 'E: no such package' >&2\nexit 100\n")
    apt.chmod(0o755)
    for _ in range(2):
        with pytest.raises(NoAdbd, match=r"^it cannot be fetched from Debian's backports into .*: E: no such package"):
            fetch_adbd()
    assert len(calls.read_text().splitlines()) == 2, "one update and one download"
    assert not (tmp_path / "cache" / "root").exists()


@pytest.mark.parametrize(
    ("why", "outcome"),
    [
        (NoAdbd("adb is needed"), pytest.fail.Exception),
        (NoNamespaces("the kernel has none"), pytest.skip.Exception),
    ],
)
def test_what_could_be_installed_fails_and_what_the_kernel_forbids_is_skipped(
    monkeypatch: pytest.MonkeyPatch, why: NoAdbd, outcome: type[Exception]
) -> None:
    def none() -> NoReturn:
        raise why

    monkeypatch.setattr(phones, "phone", none)
    with pytest.raises(outcome, match=f"^no adbd: {why}$"), a_phone():
        pass


def test_a_machine_without_namespaces(empty_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adbd, "fetch_adbd", lambda: None)
    for name in ("adb", "unshare"):
        (empty_path / name).write_text("#!/bin/sh\nexit 1\n")
        (empty_path / name).chmod(0o755)
    with pytest.raises(NoNamespaces, match="this kernel lets this account have no namespaces"), phone():
        pass
