"""The newest wheel is found through pip for another machine, kept, and judged by its content."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgedeploy.board import wheels
from edgedeploy.board.elf import Needs
from edgedeploy.board.wheels import PipIndex, Target, platforms, read_wheel, series_of
from edgedeploy.errors import DownloadError
from tests.board.made_wheels import make_wheel, registry, unreachable_registry
from tests.board.test_elf import MACHINE

PI = Target("aarch64", (3, 11), (2, 36))


def test_tags_that_promise_to_fit_come_first() -> None:
    names = list(platforms(Target("aarch64", (3, 8), (2, 31))))
    assert names[0] == "manylinux_2_31_aarch64"
    assert names.index("manylinux_2_17_aarch64") < names.index("manylinux_2_32_aarch64")
    assert {"manylinux2014_aarch64", "linux_aarch64", "manylinux_2_34_aarch64"} <= set(names)
    assert "manylinux1_x86_64" in list(platforms(Target("x86_64", (3, 11), (2, 36))))


def test_the_newest_for_the_board_is_found_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop, cache = tmp_path / "shop", tmp_path / "cache"
    for version, tag in [
        ("1.0", "cp311-cp311-manylinux_2_17_aarch64"),
        ("1.1", "cp311-cp311-manylinux_2_34_aarch64"),
        ("2.0", "cp310-cp310-manylinux_2_17_aarch64"),
        ("2.1", "cp311-cp311-manylinux_2_17_x86_64"),
    ]:
        make_wheel(shop, "onnxruntime", version, tag)
    registry(monkeypatch, shop)
    index = PipIndex(cache)
    found = index.newest("onnxruntime", (), PI)
    assert found is not None
    assert (found.name, found.version, found.needs) == ("onnxruntime", "1.1", Needs())
    older = index.newest("onnxruntime", series_of("1.1"), PI)
    assert older is not None
    assert older.version == "1.0"
    assert index.newest("onnxruntime", (1, 0), PI) is None
    assert index.newest("tflite-runtime", (), PI) is None
    monkeypatch.setattr(wheels, "run_tool", None)  # from here on nothing is asked again
    again = PipIndex(cache).newest("onnxruntime", (), PI)
    assert again == found
    assert PipIndex(cache).newest("tflite-runtime", (), PI) is None


@pytest.mark.fault
def test_an_unreachable_registry_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pip reaches no registry, the error says so in one sentence and is worth a retry; it is not "no wheel"."""
    unreachable_registry(monkeypatch)
    with pytest.raises(
        DownloadError, match=r"^onnxruntime for the board could not be downloaded; is .* pip says: "
    ) as e:
        PipIndex(tmp_path).newest("onnxruntime", (), PI)
    assert e.value.exit_code == 3
    assert "\n" not in str(e.value)


@pytest.mark.fault
def test_an_unreachable_registry_after_a_good_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was downloaded once is used again, however old, while no registry can be reached."""
    shop, cache = tmp_path / "shop", tmp_path / "cache"
    make_wheel(shop, "onnxruntime", "1.0")
    with monkeypatch.context() as patch:
        registry(patch, shop)
        PipIndex(cache).newest("onnxruntime", (), PI)
    unreachable_registry(monkeypatch)
    monkeypatch.setattr(wheels, "FRESH_S", -1.0)
    found = PipIndex(cache).newest("onnxruntime", (), PI)
    assert found is not None
    assert found.version == "1.0"


@pytest.mark.fault
def test_a_machine_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python of the host without pip is told, and how to mend it."""
    monkeypatch.setattr(
        wheels, "pip_command", lambda *_: [sys.executable, "-c", "raise SystemExit('No module named pip')"]
    )
    with pytest.raises(DownloadError, match="has no pip, which brings onnxruntime for the board: install pip there"):
        PipIndex(tmp_path).newest("onnxruntime", (), PI)


@pytest.mark.fault
def test_a_tool_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of the host that does not start is one sentence."""
    monkeypatch.setattr(wheels, "pip_command", lambda *_: ["/no/such/pip"])
    with pytest.raises(DownloadError, match="`/no/such/pip` does not start on this machine: No such file"):
        PipIndex(tmp_path).newest("onnxruntime", (), PI)


def test_needs_are_those_of_what_is_kept_and_not_brought_inside(tmp_path: Path, library: bytes) -> None:
    oldest = b"GLIBC_2.2.5\0" if MACHINE == "x86_64" else b"GLIBC_2.17\0"
    newer = library.replace(oldest, b"GLIBC_2.99\0".ljust(len(oldest), b"\0"))
    files = {"pkg/a.so": library, "pkg/tests/b.so": newer, "pkg.libs/libc.so.6": library}
    wheel = read_wheel(make_wheel(tmp_path, "pkg", "1.0", files=files), MACHINE)
    assert wheel.needs.glibc < (2, 99)
    assert wheel.needs.libraries == frozenset()
    files["pkg/c.so.1"] = newer
    assert read_wheel(make_wheel(tmp_path, "pkg", "1.1", files=files), MACHINE).needs.glibc == (2, 99)


@pytest.mark.fault
@pytest.mark.parametrize("content", [b"", b"PK\3\4 no zip"])
def test_a_wheel_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    """A wheel that is no archive, or whose library is for another machine, is told with its path."""
    path = tmp_path / "pkg-1.0-py3-none-any.whl"
    path.write_bytes(content)
    with pytest.raises(DownloadError, match=r"is no wheel for the board: .*; remove it and run again"):
        read_wheel(path, MACHINE)
