"""Finds the newest wheel that a board can really load, by what is in it rather than by what its tags promise."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgedeploy.board.elf import Needs, Version, joined, needs_of, version_of
from edgedeploy.board.host_tools import FRESH_S, last_words, run_tool
from edgedeploy.errors import DownloadError

# Tags lie in both directions, so newer ones are offered too, after those that promise to fit.
NEWEST_GLIBC_MINOR = 43
OLDEST_GLIBC_MINOR = {"x86_64": 5, "aarch64": 17, "armv7l": 17}
_UNREACHABLE = re.compile(
    r"Retrying \(|Could not fetch URL|Max retries|[Cc]onnection|name resolution|No route|timed? ?out"
)

# What no board needs for inference: a third to a half of the bytes.
_LEFT_OUT = re.compile(
    r"(^|/)(tests?|__pycache__|include)/"
    r"|\.(pyi|h|hpp|a|pxd|pyx|c|cpp|f90)$"
    r"|^numpy/(f2py|distutils|doc|_pyinstaller)/"
    r"|^onnxruntime/(tools|transformers|quantization|datasets)/"
    r"|^onnxruntime/capi/libonnxruntime\.so"  # for programs in C: the Python module carries its own
    r"|^ai_edge_litert/(tools/|.*WebGpu)"
    r"|^[^/]+\.data/"
)


@dataclass(frozen=True, slots=True)
class Target:
    """What a wheel must be for: a machine, a CPython such as (3, 11), the board's glibc."""

    machine: str
    python: Version
    glibc: Version


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel on this machine and what its libraries need."""

    name: str
    version: str
    path: Path
    needs: Needs

    @property
    def package(self) -> str:
        """The name that is asked for, where `name` is the one in the file's."""
        return self.name.replace("_", "-")


class Index(Protocol):
    """Where wheels come from."""

    def newest(self, name: str, below: Version, target: Target) -> Wheel | None:
        """The newest release of a package before `below`, () for any; None where there is none for the target.

        Raises DownloadError.
        """


class PipIndex:
    """The registries that this machine's pip is set up for; `cache` keeps what came from them."""

    def __init__(self, cache: Path) -> None:
        self._wheels = cache / "wheels"
        self._answers = cache / "answers"

    def newest(self, name: str, below: Version, target: Target) -> Wheel | None:
        """See `Index`. An answer holds for a day, and longer while no registry can be reached."""
        requirement = name if not below else f"{name}<{'.'.join(map(str, below))}"
        key = json.dumps([requirement, target.machine, target.python, target.glibc])
        answer = self._answers / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
        file = self._known(answer, FRESH_S)
        if file is None:
            try:
                file = self._download(requirement, target)
            except DownloadError:
                file = self._known(answer, float("inf"))
                if file is None:
                    raise
            else:
                answer.parent.mkdir(parents=True, exist_ok=True)
                answer.write_text(json.dumps(file), "utf-8")
        return read_wheel(self._wheels / file, target.machine) if file else None

    def _known(self, answer: Path, age_s: float) -> str | None:
        """The file name that was answered before, "" where there was none, None where that is not known."""
        try:
            if time.time() - answer.stat().st_mtime > age_s:
                return None
            file = json.loads(answer.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return file if file == "" or (isinstance(file, str) and (self._wheels / file).is_file()) else None

    def _download(self, requirement: str, target: Target) -> str:
        self._wheels.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".pip-", dir=self._wheels) as folder:
            ended = run_tool(pip_command(requirement, target, folder))
            if ended.exit_code == 0:
                [wheel] = Path(folder).glob("*.whl")
                wheel.replace(self._wheels / wheel.name)
                return wheel.name
            if "No matching distribution" in ended.stderr and not _UNREACHABLE.search(ended.stderr):
                return ""
            if "No module named pip" in ended.stderr:
                raise DownloadError(
                    f"{sys.executable} has no pip, which brings {requirement} for the board: install pip there."
                )
            raise DownloadError(
                f"{requirement} for the board could not be downloaded; is a package registry within reach of this "
                f"machine? pip says: {last_words(ended.stderr)}"
            )


def pip_command(requirement: str, target: Target, folder: str) -> list[str]:
    """The command by which pip brings a wheel for another machine into `folder`."""
    tag = "cp" + "".join(map(str, target.python[:2]))
    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check", "--retries", "2"]
    for platform in platforms(target):
        options += ["--platform", platform]
    for abi in (tag, "abi3", "none"):
        options += ["--abi", abi]
    options += ["--implementation", "cp", "--python-version", tag.removeprefix("cp"), "--dest", folder, "--quiet"]
    return [sys.executable, "-m", "pip", "download", *options, requirement]


def platforms(target: Target) -> Iterator[str]:
    """The platform tags to accept, best first: those that promise to fit the board's glibc, then the newer ones."""
    fits = target.glibc[1] if len(target.glibc) > 1 else NEWEST_GLIBC_MINOR
    oldest = OLDEST_GLIBC_MINOR[target.machine]
    for minor in [*range(fits, oldest - 1, -1), *range(fits + 1, NEWEST_GLIBC_MINOR + 1)]:
        yield f"manylinux_2_{minor}_{target.machine}"
        legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}.get(minor)
        if legacy:
            yield f"{legacy}_{target.machine}"
    yield f"linux_{target.machine}"


def read_wheel(path: Path, machine: str) -> Wheel:
    """A wheel and what the libraries in it need. Raises DownloadError for one that cannot be read."""
    name, version = path.name.split("-")[:2]
    try:
        with zipfile.ZipFile(path) as archive:
            libraries = [entry for entry in members(archive) if re.search(r"\.so(\.\d+)*$", entry)]
            needs = joined(needs_of(archive.read(entry), machine) for entry in libraries)
            vendored = {Path(entry).name for entry in archive.namelist()}
    except (ValueError, zipfile.BadZipFile, OSError) as error:
        raise DownloadError(f"{path} is no wheel for the board: {error}; remove it and run again.") from error
    return Wheel(name, version, path, Needs(needs.glibc, needs.glibcxx, needs.libraries - vendored))


def members(archive: zipfile.ZipFile) -> list[str]:
    """The files of a wheel that a board needs."""
    names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    return [name for name in names if not _LEFT_OUT.search(name)]


def series_of(version: str) -> Version:
    """Major and minor: releases of one series are built alike, so that one of them speaks for all."""
    return version_of(version)[:2]
