"""The same inputs give the same bytes, found again by what went in."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from edgedeploy.board.elf import Needs
from edgedeploy.board.runtime_archive import pack
from edgedeploy.board.wheels import Wheel
from edgedeploy.on_device.runtime_bundles import unpack
from tests.board.made_wheels import make_wheel

ABOUT = {"way": "wheels"}


@pytest.fixture
def wheel(tmp_path: Path) -> Wheel:
    files = {"pkg/__init__.py": b"x = 1\n", "pkg/tests/test_x.py": b"", "pkg/x.pyi": b"", "pkg/data.bin": bytes(9999)}
    return Wheel("pkg", "1.0", make_wheel(tmp_path / "shop", "pkg", "1.0", files=files), Needs())


@pytest.fixture
def extra(tmp_path: Path) -> dict[str, Path]:
    for name in ("python3", "ld-linux.so.1"):
        (tmp_path / name).write_bytes(name.encode())
    return {"bin/python3": tmp_path / "python3", "lib/ld-linux.so.1": tmp_path / "ld-linux.so.1"}


def test_same_inputs_same_bytes(tmp_path: Path, wheel: Wheel, extra: dict[str, Path]) -> None:
    one = pack(tmp_path / "one", [wheel], extra, ["p_1.deb"], ABOUT)
    os.utime(extra["bin/python3"], (1, 1))
    two = pack(tmp_path / "two", [wheel], dict(reversed(extra.items())), ["p_1.deb"], ABOUT)
    assert one.path.read_bytes() == two.path.read_bytes()
    assert one.sha256 == two.sha256
    assert one.path.name == f"{one.sha256}.tar.gz"


def test_what_is_in_it_unpacks_on_a_board(tmp_path: Path, wheel: Wheel, extra: dict[str, Path]) -> None:
    bundle = pack(tmp_path / "cache", [wheel], extra, [], ABOUT)
    folder = tmp_path / "board"
    folder.mkdir()
    with bundle.path.open("rb") as file:
        unpack(file, str(folder), bundle.unpacked_bytes)
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    assert len(files) == bundle.files
    assert sum(path.stat().st_size for path in files.values()) == bundle.unpacked_bytes
    assert {"bundle.json", "bin/python3", "lib/ld-linux.so.1", "site/pkg/__init__.py", "site/pkg/data.bin"} <= set(
        files
    )
    assert not {"site/pkg/tests/test_x.py", "site/pkg/x.pyi"} & set(files)
    assert [os.access(files[name], os.X_OK) for name in ("bin/python3", "lib/ld-linux.so.1")] == [True, True]
    with tarfile.open(bundle.path) as tar:
        names = tar.getnames()
    assert names.index("bin/python3") < names.index("site/pkg/__init__.py")


def test_packed_once(tmp_path: Path, wheel: Wheel) -> None:
    one = pack(tmp_path, [wheel], {}, [], ABOUT)
    written = one.path.stat().st_mtime_ns
    assert pack(tmp_path, [wheel], {}, [], ABOUT) == one
    assert one.path.stat().st_mtime_ns == written
    assert pack(tmp_path, [wheel], {}, [], {"way": "other"}).sha256 != one.sha256


@pytest.mark.fault
@pytest.mark.parametrize("spoil", ["flip", "cut", "remove"])
def test_a_spoilt_cache_is_packed_again(tmp_path: Path, wheel: Wheel, spoil: str) -> None:
    """A bundle that rotted in this machine's cache is never sent: it is packed again from the wheels."""
    one = pack(tmp_path, [wheel], {}, [], ABOUT)
    content = one.path.read_bytes()
    if spoil == "remove":
        one.path.unlink()
    else:
        one.path.write_bytes(content[:-1] + b"?" if spoil == "flip" else content[:100])
    again = pack(tmp_path, [wheel], {}, [], ABOUT)
    assert again == one
    assert again.path.read_bytes() == content
