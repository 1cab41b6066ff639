"""What each real kind of board is brought, from a made-up registry that holds what the real one does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgedeploy.board.elf import Needs, Version, version_of
from edgedeploy.board.runtime_choice import Choice, Description, OwnPython, Way, choose, no_wheels, with_verifier
from edgedeploy.board.wheels import Target, Wheel

CXX = frozenset({"libstdc++.so.6", "libgcc_s.so.1", "libc.so.6"})
ALL = frozenset({"libstdc++.so.6", "libgcc_s.so.1", "libgomp.so.1"})
BOTH = ("onnxruntime", "ai-edge-litert")
OWN = OwnPython(
    (3, 11),
    (2, 36),
    (3, 4, 30),
    {"libstdc++.so.6": Needs((2, 36)), "libgomp.so.1": Needs((2, 34)), "libgcc_s.so.1": Needs((2, 35))},
)
OWN_ARMV7 = replace(OWN, numpy="1.24")
AARCH64, ARMV7 = "aarch64", "armv7l"

# package, release, machine, Pythons, least glibc and GLIBCXX: read from the wheels themselves
RELEASES: tuple[tuple[str, str, str, tuple[int, int], Version, Version], ...] = (
    ("onnxruntime", "1.32.0", AARCH64, (11, 13), (2, 28), (3, 4, 22)),
    ("onnxruntime", "1.28.0", AARCH64, (11, 13), (2, 27), (3, 4, 22)),
    ("onnxruntime", "1.23.2", AARCH64, (10, 13), (2, 27), (3, 4, 22)),
    ("onnxruntime", "1.19.2", AARCH64, (8, 12), (2, 27), (3, 4, 22)),
    ("ai_edge_litert", "2.3.0", AARCH64, (10, 13), (2, 34), (3, 4, 30)),
    ("ai_edge_litert", "2.2.0", AARCH64, (10, 13), (2, 34), (3, 4, 30)),
    ("ai_edge_litert", "2.1.0", AARCH64, (9, 13), (2, 30), (3, 4, 26)),
    ("tflite_runtime", "2.14.0", AARCH64, (8, 11), (2, 27), ()),
    ("tflite_runtime", "2.14.0", ARMV7, (8, 11), (2, 27), ()),
    ("pynacl", "1.6.2", AARCH64, (8, 13), (2, 25), ()),
    ("cffi", "2.1.1", AARCH64, (10, 13), (2, 17), ()),
    ("cffi", "1.17.1", AARCH64, (8, 13), (2, 17), ()),
    ("numpy", "2.4.6", AARCH64, (11, 13), (2, 27), (3, 4, 21)),
    ("numpy", "2.2.6", AARCH64, (10, 13), (2, 17), ()),
    ("numpy", "1.26.4", AARCH64, (9, 12), (2, 17), ()),
    ("numpy", "1.24.4", AARCH64, (8, 11), (2, 17), ()),
)


class MadeUpIndex:
    """Answers from RELEASES, newest first, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Version]] = []

    def newest(self, name: str, below: Version, target: Target) -> Wheel | None:
        self.asked.append((name, below))
        for package, release, machine, (low, high), glibc, glibcxx in RELEASES:
            fits = machine == target.machine and (3, low) <= target.python <= (3, high)
            if package == name.replace("-", "_") and fits and (not below or version_of(release) < below):
                return Wheel(package, release, Path("none.whl"), Needs(glibc, glibcxx, CXX))
        return None


def board(python: str, glibc: str, glibcxx: str = "3.4.30", machine: str = AARCH64, bits: int = 64) -> Description:
    return Description(machine, f"glibc {glibc}", version_of(glibc), version_of(python), bits, version_of(glibcxx), ALL)


BOARDS: dict[str, tuple[Description, Way, dict[str, str], str]] = {
    "JetPack 6": (
        board("3.10", "2.35"),
        Way.WHEELS,
        {"onnxruntime": "1.23.2", "ai_edge_litert": "2.3.0", "numpy": "2.2.6"},
        "",
    ),
    "JetPack 5": (
        board("3.8", "2.31", "3.4.28"),
        Way.WHEELS,
        {"onnxruntime": "1.19.2", "tflite_runtime": "2.14.0", "numpy": "1.24.4"},
        "tflite-runtime 2.14.0 instead of ai-edge-litert: no wheel of ai-edge-litert is published for Python 3.8",
    ),
    "JetPack 4": (
        board("3.6", "2.27", "3.4.25"),
        Way.OWN_PYTHON,
        {"onnxruntime": "1.32.0", "ai_edge_litert": "2.3.0", "numpy": "2.4.6"},
        "",
    ),
    "JetPack 4 with python3.8": (
        board("3.8", "2.27", "3.4.25"),
        Way.WHEELS,
        {"onnxruntime": "1.19.2", "tflite_runtime": "2.14.0", "numpy": "1.24.4"},
        "tflite-runtime 2.14.0 instead of ai-edge-litert",
    ),
    "64-bit Pi OS 12": (
        board("3.11", "2.36"),
        Way.WHEELS,
        {"onnxruntime": "1.32.0", "ai_edge_litert": "2.3.0", "numpy": "2.4.6"},
        "",
    ),
    "64-bit Pi OS 11": (
        board("3.9", "2.31", "3.4.28"),
        Way.WHEELS,
        {"onnxruntime": "1.19.2", "ai_edge_litert": "2.1.0", "numpy": "1.26.4"},
        "",
    ),
    "glibc 2.27 with a new Python": (
        board("3.11", "2.27", "3.4.25"),
        Way.WHEELS,
        {"onnxruntime": "1.28.0", "tflite_runtime": "2.14.0", "numpy": "1.26.4"},
        "ai-edge-litert 2.3.0 needs glibc 2.34, the board has 2.27, nor does an older one fit",
    ),
    "no Python": (
        Description(AARCH64, "musl", ()),
        Way.OWN_PYTHON,
        {"onnxruntime": "1.32.0", "ai_edge_litert": "2.3.0", "numpy": "2.4.6"},
        "",
    ),
    "Android": (
        Description(AARCH64, "bionic", ()),
        Way.OWN_PYTHON,
        {"onnxruntime": "1.32.0", "ai_edge_litert": "2.3.0", "numpy": "2.4.6"},
        "",
    ),
    "musl with Python": (
        Description(AARCH64, "musl", (), (3, 11), 64),
        Way.OWN_PYTHON,
        {"onnxruntime": "1.32.0", "ai_edge_litert": "2.3.0", "numpy": "2.4.6"},
        "",
    ),
}


def versions(choice: Choice) -> dict[str, str]:
    return {wheel.name: wheel.version for wheel in choice.wheels}


@pytest.mark.parametrize("name", BOARDS)
def test_what_a_board_is_brought(name: str) -> None:
    described, way, wanted, note = BOARDS[name]
    choice = choose(described, BOTH, MadeUpIndex(), OWN)
    assert (choice.way, versions(choice), choice.cannot) == (way, wanted, ())
    assert note in "; ".join(choice.notes)
    assert bool(note) == bool(choice.notes)


def test_a_32_bit_user_land_gets_what_there_is_for_it() -> None:
    described = board("3.11", "2.36", machine=ARMV7, bits=32)
    choice = choose(described, BOTH, MadeUpIndex(), OWN_ARMV7)
    assert (choice.way, versions(choice)) == (Way.OWN_PYTHON, {"tflite_runtime": "2.14.0"})
    assert choice.system_numpy == "1.24"
    assert dict(choice.cannot) == {"onnxruntime": "no wheel of onnxruntime is published for Python 3.11 on armv7l"}
    [note] = choice.notes
    assert note.startswith("tflite-runtime 2.14.0 instead of ai-edge-litert: no wheel of ai-edge-litert is published")


def test_a_32_bit_python_on_a_64_bit_user_land_is_no_use() -> None:
    assert "32-bit one on a aarch64 user land" in no_wheels(replace(board("3.11", "2.36"), python_bits=32))


def test_missing_libraries_come_along_where_the_board_can_load_them() -> None:
    bare = replace(board("3.11", "2.36", "0"), libraries=frozenset(), glibcxx=())
    choice = choose(bare, BOTH, MadeUpIndex(), OWN)
    assert (choice.way, choice.libraries) == (Way.WHEELS, ("libgcc_s.so.1", "libstdc++.so.6"))


def test_missing_libraries_that_the_board_cannot_load_take_a_python_of_its_own() -> None:
    bare = replace(board("3.9", "2.31", "0"), libraries=frozenset(), glibcxx=())
    assert choose(bare, BOTH, MadeUpIndex(), OWN).way is Way.OWN_PYTHON
    index = MadeUpIndex()
    alone = choose(bare, BOTH, index, "this machine is no Debian")
    assert (alone.wheels, len(alone.cannot)) == ((), 2)
    assert dict(alone.cannot)["onnxruntime"] == "onnxruntime 1.19.2 needs libgcc_s.so.1, which the board lacks"
    assert [below for name, below in index.asked if name == "onnxruntime"] == [()]  # an older one needs it too


def test_an_older_cxx_library_is_replaced_for_the_workers() -> None:
    choice = choose(board("3.11", "2.36", "3.4.28"), BOTH, MadeUpIndex(), OWN)
    assert versions(choice)["ai_edge_litert"] == "2.3.0"
    assert choice.libraries == ("libgcc_s.so.1", "libstdc++.so.6")


def test_only_what_is_missing_is_brought() -> None:
    described = replace(board("3.10", "2.35"), present={"onnxruntime": "1.17 for the GPU", "numpy": "1.26.1"})
    choice = choose(described, BOTH, MadeUpIndex(), OWN)
    assert (versions(choice), choice.runtimes) == ({"ai_edge_litert": "2.3.0"}, ("ai-edge-litert",))
    full = replace(described, present={"onnxruntime": "1", "ai_edge_litert": "2"})
    index = MadeUpIndex()
    assert versions(choose(full, BOTH, index, OWN)) == {}
    assert index.asked == []


def test_tflite_runtime_never_meets_numpy_2() -> None:
    described = replace(board("3.11", "2.36"), present={"numpy": "2.1.0"})
    assert versions(choose(described, ["tflite-runtime"], MadeUpIndex(), OWN)) == {
        "tflite_runtime": "2.14.0",
        "numpy": "1.26.4",
    }


@pytest.mark.fault
@pytest.mark.parametrize(
    ("described", "reason"),
    [
        (board("3.10", "2.26", "3.4.22"), "onnxruntime 1.23.2 needs glibc 2.27, the board has 2.26, nor does an older"),
        (board("3.11", "2.28", "3.4.21"), "onnxruntime 1.32.0 needs GLIBCXX_3.4.22, the board's libstdc++ has 3.4.21"),
        (board("3.6", "2.27"), "the board's Python 3.6 has no wheels, those are for 3.8 to 3.13; no apt here"),
        (board("3.14", "2.41"), "the board's Python 3.14 has no wheels"),
        (Description(AARCH64, "musl", (), (3, 11), 64), "the board's C library is musl, and the wheels are for glibc"),
        (Description(AARCH64, "", ()), "the board has no Python; no apt here"),
        (Description("riscv64", "glibc 2.36", (2, 36), (3, 11), 64), "no runtime is published for riscv64"),
        (Description("armv6l", "glibc 2.36", (2, 36), (3, 11), 32), "no runtime is published for armv6l"),
    ],
)
def test_what_cannot_be_had_has_its_reason(described: Description, reason: str) -> None:
    """A wheel that the board's C or C++ library cannot load is refused by what it needs, and told so."""
    choice = choose(described, ["onnxruntime"], MadeUpIndex(), "no apt here")
    assert choice.wheels == ()
    assert dict(choice.cannot)["onnxruntime"].startswith(reason)


@pytest.mark.parametrize(
    ("described", "own", "brought"),
    [
        (board("3.11", "2.36"), None, {"pynacl": "1.6.2", "cffi": "2.1.1"}),
        (board("3.8", "2.31", "3.4.28"), None, {"pynacl": "1.6.2", "cffi": "1.17.1"}),
        (board("3.6", "2.27"), OWN, {"pynacl": "1.6.2", "cffi": "2.1.1"}),
        (Description(AARCH64, "musl", ()), OWN, {"pynacl": "1.6.2", "cffi": "2.1.1"}),
    ],
    ids=["Pi OS 12", "JetPack 5", "JetPack 4", "no Python"],
)
def test_what_checks_signatures_comes_along(
    described: Description, own: OwnPython | None, brought: dict[str, str]
) -> None:
    choice = choose(described, ["onnxruntime"], MadeUpIndex(), own or "no apt here")
    whole = with_verifier(choice, described, MadeUpIndex(), own)
    assert {wheel.name: wheel.version for wheel in whole.wheels[len(choice.wheels) :]} == brought
    assert (whole.verifier, whole.runtimes, whole.cannot) == (True, choice.runtimes, choice.cannot)


@pytest.mark.parametrize(
    ("described", "own", "reason"),
    [
        (board("3.11", "2.24"), None, "pynacl 1.6.2 needs glibc 2.25, the board has 2.24, nor does an older one fit; "),
        (board("3.7", "2.31"), None, "the board's Python 3.7 has no wheels, those are for 3.8 to 3.13; without it"),
        (Description(ARMV7, "glibc 2.36", (2, 36)), OWN_ARMV7, "no wheel of pynacl is published for Python 3.11 on a"),
        (Description("riscv64", "glibc 2.36", (2, 36), (3, 11), 64), None, "no wheel of it is published for riscv64;"),
    ],
)
def test_a_verifier_that_cannot_be_had_has_its_reason(
    described: Description, own: OwnPython | None, reason: str
) -> None:
    choice = choose(described, ["tflite-runtime"], MadeUpIndex(), own or "no apt here")
    whole = with_verifier(choice, described, MadeUpIndex(), own)
    assert dict(whole.cannot)["pynacl"].startswith(reason)
    assert "without ssh-keygen (openssh-client 8.2 or later) the board takes no release" in dict(whole.cannot)["pynacl"]
    assert (whole.wheels, whole.verifier) == (choice.wheels, False)


def test_a_board_on_which_nothing_runs_needs_no_verifier() -> None:
    described = Description(AARCH64, "", ())
    choice = choose(described, ["onnxruntime"], MadeUpIndex(), "no apt here")
    assert with_verifier(choice, described, MadeUpIndex(), None) == choice


def test_stepping_down_ends() -> None:
    class Endless(MadeUpIndex):
        def newest(self, name: str, below: Version, target: Target) -> Wheel | None:
            self.asked.append((name, below))
            return Wheel(name, f"9.{100 - len(self.asked)}", Path("none.whl"), Needs((2, 99)))

    index = Endless()
    choice = choose(board("3.11", "2.36"), ["onnxruntime"], index, "no apt here")
    assert "needs glibc 2.99" in dict(choice.cannot)["onnxruntime"]
    assert len(index.asked) == 8
