"""A Python for a board comes from Debian packages, and the system of this machine learns nothing of it."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from edgedeploy.board import debian
from edgedeploy.board.debian import DebianPackages
from edgedeploy.board.host_tools import Ended, run_tool
from edgedeploy.errors import DownloadError

MACHINE = platform.machine()
SHOW = "Package: python3-minimal\nPre-Depends: python3.11-minimal (>= 3.11.2-1~)\n"

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no Debian")


def make_deb(folder: Path, name: str, version: str, files: Mapping[str, bytes], links: Mapping[str, str]) -> Path:
    tree = folder / name
    for inside, content in {**files, "DEBIAN/control": b""}.items():
        (tree / inside).parent.mkdir(parents=True, exist_ok=True)
        (tree / inside).write_bytes(content)
    for inside, target in links.items():
        (tree / inside).symlink_to(target)
    control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n"
    (tree / "DEBIAN/control").write_text(control)
    path = folder / f"{name}_{version.replace(':', '%3a')}_all.deb"
    subprocess.run(["dpkg-deb", "-Znone", "--build", str(tree), str(path)], check=True, capture_output=True)
    return path


class Apt:
    """apt as it behaves, with packages made on the spot; everything else is run for real."""

    def __init__(self, debs: Sequence[Path]) -> None:
        self.debs = debs
        self.calls: list[Sequence[str]] = []
        self.unpacked: list[str] = []
        self.fail = ""
        self.mends = ""

    def __call__(self, argv: Sequence[str], **options: object) -> Ended:
        if argv[0] == "dpkg-deb":
            self.unpacked.append(Path(argv[2]).name)
            if self.fail == "unpack" and len(self.unpacked) == 2:
                return Ended(2, "", "dpkg-deb: error: no space left\n")
            return run_tool(argv)
        self.calls.append(argv)
        verb = next(word for word in ("update", "show", "--print-uris", "download") if word in argv)
        if verb == self.mends:
            self.fail = ""
        if verb == self.fail:
            return Ended(100, "", "W: something\nE: Failed to fetch x  Could not resolve 'deb.example'\n")
        if verb == "show":
            return Ended(0, SHOW, "")
        if verb == "--print-uris":
            return Ended(0, "".join(f"'http://x/{d.name}' {d.name} 1 SHA256:0\n" for d in self.debs), "")
        if verb == "download":
            for deb in self.debs:
                shutil.copy(deb, Path(argv[2]))
        return Ended(0, "", "")

    def verbs(self) -> list[str]:
        words = ("update", "show", "--print-uris", "download")
        return [next(word for word in words if word in argv) for argv in self.calls]


@pytest.fixture
def apt(tmp_path: Path, library: bytes, monkeypatch: pytest.MonkeyPatch) -> Apt:
    triple = f"usr/lib/{MACHINE}-linux-gnu"
    loader = {"x86_64": "ld-linux-x86-64.so.2", "aarch64": "ld-linux-aarch64.so.1"}[MACHINE]
    folder = tmp_path / "debs"
    cxx = library + b"\0GLIBCXX_3.4.9\0GLIBCXX_3.4.30\0"
    debs = [
        make_deb(
            folder,
            "libc6",
            "2.36-9+deb12u14",
            {
                f"{triple}/libc.so.6": library,
                f"{triple}/{loader}": library,
                f"{triple}/gconv/EUC.so": b"",
                f"{triple}/libmemusage.so": b"",
                "usr/share/doc/libc6/copyright": b"LGPL",
            },
            {},
        ),
        make_deb(
            folder,
            "libstdc++6",
            "12.2.0-14",
            {f"{triple}/libstdc++.so.6.0.30": cxx, f"{triple}/libgomp.so.1.0.0": library},
            {f"{triple}/libstdc++.so.6": "libstdc++.so.6.0.30", f"{triple}/libgomp.so.1": "libgomp.so.1.0.0"},
        ),
        make_deb(folder, "libgcc-s1", "12.2.0-14", {f"{triple}/libgcc_s.so.1": library}, {}),
        make_deb(
            folder,
            "python3.11-minimal",
            "3.11.2-6+deb12u9",
            {
                "usr/bin/python3.11": b"\x7fELF python",
                "usr/lib/python3.11/os.py": b"x",
                "usr/lib/python3.11/test/test_os.py": b"x",
                "usr/lib/python3.11/lib-dynload/_json.so": library,
                "usr/lib/python3.11/lib-dynload/_testcapi.so": library,
            },
            {},
        ),
    ]
    made = Apt(debs)
    monkeypatch.setattr(debian, "run_tool", made)
    return made


def test_a_python_with_its_libraries(apt: Apt, tmp_path: Path) -> None:
    packages = DebianPackages(tmp_path / "cache", MACHINE)
    python = packages.python()
    assert (python.offers.python, python.offers.glibc, python.offers.glibcxx) == ((3, 11), (2, 36), (3, 4, 30))
    assert {"bin/python3", "lib/libc.so.6", "lib/libstdc++.so.6", "lib/libgomp.so.1"} <= set(python.files)
    assert {"lib/python3.11/os.py", "lib/python3.11/lib-dynload/_json.so", "licences/libc6"} <= set(python.files)
    assert [name for name in python.files if "test" in name or "gconv" in name or "memusage" in name] == []
    assert any(name.startswith("lib/ld-linux") for name in python.files)
    assert python.files["lib/libstdc++.so.6"].name == "libstdc++.so.6.0.30"
    assert set(python.libraries) == set(python.offers.library_needs)
    assert all(path.is_file() and not path.is_symlink() for path in python.files.values())


def test_nothing_is_downloaded_twice(apt: Apt, tmp_path: Path) -> None:
    for _ in range(2):
        DebianPackages(tmp_path / "cache", MACHINE).python()
    assert apt.verbs() == ["update", "show", "--print-uris", "download", "show", "--print-uris"]


def test_nothing_is_unpacked_twice(apt: Apt, tmp_path: Path) -> None:
    first = DebianPackages(tmp_path, MACHINE).python()
    again = DebianPackages(tmp_path, MACHINE).python()
    assert first == again
    assert sorted(apt.unpacked) == sorted(deb.name for deb in apt.debs)
    renewed = apt.debs[0].with_name(f"new_{apt.debs[0].name}")
    apt.debs = [apt.debs[0].rename(renewed), *apt.debs[1:]]
    newer = DebianPackages(tmp_path, MACHINE).python()
    assert renewed.name in newer.packages
    assert len(apt.unpacked) == 2 * len(apt.debs)
    [folder] = tmp_path.rglob("unpacked")
    assert len(list(folder.iterdir())) == 1, "the older ones are gone"
    assert not any(path.exists() for path in first.files.values())


@pytest.mark.fault
def test_unpacking_that_was_cut_off_is_done_again(apt: Apt, tmp_path: Path) -> None:
    """Packages that were unpacked in part are never taken for whole ones."""
    apt.fail = "unpack"
    with pytest.raises(DownloadError, match=r"could not unpack .* no space left"):
        DebianPackages(tmp_path, MACHINE).python()
    apt.fail = ""
    assert "bin/python3" in DebianPackages(tmp_path, MACHINE).python().files


def test_the_state_of_this_machine_is_left_alone(apt: Apt, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    DebianPackages(cache, MACHINE).python()
    for argv in apt.calls:
        for setting in ("Dir::State=", "Dir::State::status=", "Dir::Cache="):
            [value] = [word.partition("=")[2] for word in argv if word.startswith(setting)]
            assert Path(value).is_relative_to(cache)
        assert any(word.startswith("APT::Architectures=") for word in argv)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("verb", "sentence"),
    [
        (
            "show",
            r"^no Python for \w+ can be brought: the package sources of this machine have none, or cannot be reached",
        ),
        ("--print-uris", r"^could not find python3.11-minimal, .* E: Failed to fetch x"),
        (
            "download",
            r"^could not download packages for \w+; are the package sources of this machine within reach\? E: ",
        ),
    ],
)
def test_package_sources_out_of_reach(apt: Apt, tmp_path: Path, verb: str, sentence: str) -> None:
    """Whichever step of apt fails, the user reads one sentence with its reason, and the next run succeeds."""
    apt.fail = verb
    with pytest.raises(DownloadError, match=sentence) as caught:
        DebianPackages(tmp_path, MACHINE).python()
    assert "\n" not in str(caught.value)
    apt.fail = ""
    python = DebianPackages(tmp_path, MACHINE).python()
    assert "bin/python3" in python.files


def test_lists_that_are_out_of_date_are_renewed(apt: Apt, tmp_path: Path) -> None:
    """A package that was replaced since the lists were fetched is not there any more."""
    DebianPackages(tmp_path, MACHINE).python()
    shutil.rmtree(next(tmp_path.rglob("packages")))
    apt.fail, apt.mends = "download", "update"
    python = DebianPackages(tmp_path, MACHINE).python()
    assert "bin/python3" in python.files
    assert apt.verbs()[-5:] == ["download", "update", "show", "--print-uris", "download"]


def test_lists_that_cannot_be_renewed_do_not_matter_by_themselves(apt: Apt, tmp_path: Path) -> None:
    apt.fail = "update"
    python = DebianPackages(tmp_path, MACHINE).python()
    assert "bin/python3" in python.files
    assert not list(tmp_path.rglob("refreshed"))


def test_packages_that_are_not_as_expected(apt: Apt, tmp_path: Path) -> None:
    apt.debs = apt.debs[:1]
    with pytest.raises(DownloadError, match="are not as they should be: 'libstdc"):
        DebianPackages(tmp_path, MACHINE).python()


@pytest.mark.parametrize(
    ("machine", "path", "why"),
    [
        ("riscv64", None, "no Python is brought for riscv64"),
        ("aarch64", "/nowhere", r"no Python can be brought since this machine is no Debian \(apt-get is not there\)"),
    ],
)
def test_where_none_can_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, path: str | None, why: str
) -> None:
    import re

    if path:
        monkeypatch.setenv("PATH", path)
    assert re.fullmatch(why, DebianPackages(tmp_path, machine).why_not())
