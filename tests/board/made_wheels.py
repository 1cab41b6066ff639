"""Wheels made on the spot and a pip that knows no other registry, so that no test needs a network."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgedeploy.board.elf import Version, version_of
from edgedeploy.board.wheels import Target, Wheel, read_wheel

if TYPE_CHECKING:
    import pytest


def make_wheel(
    folder: Path, name: str, version: str, tag: str = "py3-none-any", files: dict[str, bytes] | None = None
) -> Path:
    """A wheel that pip accepts: the given files, or a module of that name with a version."""
    folder.mkdir(parents=True, exist_ok=True)
    module = name.replace("-", "_")
    path = folder / f"{module}-{version}-{tag}.whl"
    info = f"{module}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for inside, content in (files or {f"{module}/__init__.py": f"__version__ = {version!r}\n".encode()}).items():
            wheel.writestr(inside, content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


class Shop:
    """An index that is a folder, for tests of what comes after pip."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def newest(self, name: str, below: Version, target: Target) -> Wheel | None:
        """See `Index`."""
        found = [read_wheel(path, target.machine) for path in self.folder.glob(f"{name.replace('-', '_')}-*.whl")]
        fitting = [wheel for wheel in found if not below or version_of(wheel.version) < below]
        return max(fitting, key=lambda wheel: version_of(wheel.version), default=None)


def registry(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let pip find what is in `folder` and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    for variable in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def unreachable_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pip ask a port where nobody listens."""
    for variable in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
