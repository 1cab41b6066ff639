"""Takes a Python, a C library and a C++ library for a board from the Debian packages that this machine may fetch."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgedeploy.board.elf import needs_of, offered_glibcxx, version_of
from edgedeploy.board.host_tools import FRESH_S, Ended, last_words, run_tool
from edgedeploy.board.runtime_choice import SYSTEM_LIBRARIES, OwnPython
from edgedeploy.errors import DownloadError

_ARCHITECTURES = {"aarch64": "arm64", "armv7l": "armhf", "x86_64": "amd64"}
_LIBRARY_PACKAGES = ("libc6", "libgcc-s1", "libgomp1", "libstdc++6")
_PYTHON_LIBRARIES = ("libbz2-1.0", "libexpat1", "libffi8", "liblzma5", "libssl3", "zlib1g")
_NUMPY_PACKAGES = ("python3-numpy", "libblas3", "liblapack3", "libgfortran5")
# Of the C library: what only debuggers, profilers and old name services load.
_NO_LIBRARY = re.compile(r"/(gconv|audit|engines-3|ossl-modules)/|lib(BrokenLocale|memusage|pcprofile|thread_db|nss_)")
_NO_MODULE = re.compile(
    r"(^|/)(__pycache__|idlelib|lib2to3|tkinter|turtledemo|ensurepip|pydoc_data|test|config-[^/]*|dist-packages)/"
    r"|_test|_ctypes_test|xxlimited|xxsubtype"
)
_NO_NUMPY = re.compile(r"(^|/)(tests?|__pycache__|include|f2py|distutils|doc)/|\.(pyi|pxd|h|a)$")


@dataclass(frozen=True, slots=True)
class DebianPython:
    """Files by their place in a bundle: those of a Python, of the libraries that it starts with, of a numpy."""

    offers: OwnPython
    files: dict[str, Path]
    libraries: dict[str, Path]
    numpy: dict[str, Path]
    packages: tuple[str, ...]


class DebianPackages:
    """The packages for one machine from this machine's own sources, in lists of our own: dpkg here learns nothing."""

    def __init__(self, cache: Path, machine: str) -> None:
        self._machine = machine
        self._architecture = _ARCHITECTURES.get(machine, "")
        self._folder = cache / "debian" / self._architecture
        self._stamp = self._folder / "refreshed"

    def why_not(self) -> str:
        """Why no Python can be had from here, or ""."""
        if not self._architecture:
            return f"no Python is brought for {self._machine or 'its machine'}"
        missing = [tool for tool in ("apt-get", "apt-cache", "dpkg-deb") if shutil.which(tool) is None]
        if missing:
            return f"no Python can be brought since this machine is no Debian ({missing[0]} is not there)"
        return ""

    def python(self) -> DebianPython:
        """A Python and its libraries, in files that stay in the cache. Raises DownloadError."""
        try:
            named, packages = self._found()
        except DownloadError:
            if not self._stamp.exists():
                raise
            self._stamp.unlink()  # a package of yesterday's lists may have been replaced since
            named, packages = self._found()
        return self._collect(self._unpacked(packages), named, packages)

    def _unpacked(self, packages: Sequence[Path]) -> Path:
        """The folder that holds these packages and no other, unpacked by the first who wants them."""
        folder = self._folder / "unpacked"
        root = folder / hashlib.sha256("\n".join(path.name for path in packages).encode()).hexdigest()
        if not root.is_dir():
            shutil.rmtree(folder, ignore_errors=True)  # what is older, or was cut off
            folder.mkdir(parents=True)
            with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as temporary:
                for package in packages:
                    _done(run_tool(["dpkg-deb", "-x", str(package), f"{temporary}/root"]), f"unpack {package.name}")
                (Path(temporary) / "root").rename(root)
        return root

    def _found(self) -> tuple[str, list[Path]]:
        self._refresh()
        named = self._python_package()
        numpy = _NUMPY_PACKAGES if self._machine == "armv7l" else ()
        names = [f"{named}-minimal", f"lib{named}-minimal", f"lib{named}-stdlib"]
        return named, self._fetch([*names, *_LIBRARY_PACKAGES, *_PYTHON_LIBRARIES, *numpy])

    def _collect(self, root: Path, named: str, packages: Sequence[Path]) -> DebianPython:
        libraries = dict(_libraries(root))
        files = {f"lib/{name}": path for name, path in libraries.items()}
        files["bin/python3"] = root / "usr/bin" / named
        base = root / "usr/lib" / named
        for path in sorted(base.rglob("*")):
            inside = path.relative_to(base).as_posix()
            if path.is_file() and not _NO_MODULE.search(inside):
                files[f"lib/{named}/{inside}"] = path.resolve()
        for path in sorted((root / "usr/share/doc").glob("*/copyright")):
            if path.is_file() and not path.is_symlink():
                files[f"licences/{path.parent.name}"] = path
        package = root / "usr/lib/python3/dist-packages"
        numpy = {
            f"site/{path.relative_to(package).as_posix()}": path
            for path in sorted((package / "numpy").rglob("*"))
            if path.is_file() and not _NO_NUMPY.search(path.relative_to(package).as_posix())
        }
        try:
            needs = {name: needs_of(libraries[name].read_bytes(), self._machine) for name in SYSTEM_LIBRARIES}
        except (KeyError, ValueError) as error:
            raise DownloadError(
                f"the Debian packages for {self._machine} are not as they should be: {error}."
            ) from error
        offers = OwnPython(
            version_of(named),
            _release(packages, "libc6"),
            offered_glibcxx(libraries["libstdc++.so.6"].read_bytes()),
            needs,
            ".".join(map(str, _release(packages, "python3-numpy"))) if numpy else "",
        )
        lent = {name: libraries[name] for name in SYSTEM_LIBRARIES}
        return DebianPython(offers, files, lent, numpy, tuple(path.name for path in packages))

    def _options(self) -> list[str]:
        state, cache = self._folder / "state", self._folder / "cache"
        for folder in (state / "lists/partial", cache / "archives/partial", self._folder / "packages"):
            folder.mkdir(parents=True, exist_ok=True)
        status = self._folder / "status"
        status.touch()
        settings = {
            "Dir::State": state,
            "Dir::State::status": status,
            "Dir::Cache": cache,
            "APT::Architecture": self._architecture,
            "APT::Architectures": self._architecture,
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Acquire::Retries": "1",
        }
        return [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]

    def _refresh(self) -> None:
        if self._stamp.exists() and time.time() - self._stamp.stat().st_mtime < FRESH_S:
            return
        ended = run_tool(["apt-get", *self._options(), "-qq", "update"])
        # One source out of reach does not matter where the others have what is wanted: the download will tell.
        if ended.exit_code == 0:
            self._stamp.touch()

    def _python_package(self) -> str:
        ended = run_tool(["apt-cache", *self._options(), "show", "--no-all-versions", "python3-minimal"])
        match = re.search(r"^(?:Pre-)?Depends:.*\b(python3\.\d+)-minimal\b", ended.stdout, re.MULTILINE)
        if match is None:
            raise DownloadError(
                f"no Python for {self._architecture} can be brought: the package sources of this machine have none, or "
                f"cannot be reached. {last_words(ended.stderr)}".rstrip()
            )
        return match[1]

    def _fetch(self, names: Sequence[str]) -> list[Path]:
        folder = self._folder / "packages"
        uris = run_tool(["apt-get", *self._options(), "-qq", "--print-uris", "download", *names])
        _done(uris, f"find {', '.join(names)} for {self._architecture}")
        wanted = re.findall(r"^'[^']+' (\S+) \d+ ", uris.stdout, re.MULTILINE)
        missing = [name for name in wanted if not (folder / name).is_file()]
        if missing:
            with tempfile.TemporaryDirectory(prefix=".apt-", dir=folder) as temporary:
                argv = ["apt-get", *self._options(), "-qq", "download", *names]
                _done(run_tool(["env", "-C", temporary, *argv]), f"download packages for {self._architecture}")
                for path in Path(temporary).glob("*.deb"):
                    path.replace(folder / path.name)
        return [folder / name for name in sorted(wanted)]


def _libraries(root: Path) -> Iterator[tuple[str, Path]]:
    """The libraries by the names under which programs ask for them; a link counts as what it leads to."""
    for path in sorted(root.glob("**/*.so*")):
        inside = path.relative_to(root).as_posix()
        if "/python3" in inside or "/share/" in inside or _NO_LIBRARY.search(inside) or not path.is_file():
            continue
        asked_for = re.fullmatch(r"(lib[\w+.-]*|ld-linux[\w-]*)\.so(\.\d+(\.0)?)?", path.name)
        if asked_for:
            yield path.name, path.resolve()


def _release(packages: Sequence[Path], name: str) -> tuple[int, ...]:
    """The upstream version, major and minor, from a package's file name: NAME_[EPOCH%3a]VERSION-REVISION_ARCH.deb."""
    for path in packages:
        if path.name.startswith(f"{name}_"):
            return version_of(path.name.split("_")[1].rpartition("%3a")[2])[:2]
    return ()


def _done(ended: Ended, what: str) -> None:
    if ended.exit_code != 0:
        raise DownloadError(
            f"could not {what}; are the package sources of this machine within reach? {last_words(ended.stderr)}"
        )
