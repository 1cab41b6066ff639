from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgedeploy.board import BoardFacts, open_board
from edgedeploy.board.bundle import agent_bundle
from edgedeploy.board.facts import System, check_facts, disk_space, parse_probe, probe_command
from edgedeploy.errors import BoardError
from edgedeploy.records import Device, DeviceProfile

PI = BoardFacts(
    machine="aarch64",
    kernel="Linux 6.6.31",
    user_land_bits=64,
    root="/home/pi/.edgedeploy",
    root_writable=True,
    free_bytes=20 << 30,
    total_bytes=28 << 30,
    python_found=True,
    python="/usr/bin/python3",
    python_version="3.11.2",
    python_bits=64,
    agent_sha256=None,
)
PI_PROFILE = DeviceProfile("pi4", "Raspberry Pi 4", "aarch64", (), (), 1 << 30, (), ("ssh",))


def probe(root: str, python: str = sys.executable, **environment: str) -> BoardFacts:
    command = probe_command(root, python, agent_bundle()[1])
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return parse_probe(done.stdout)


def test_probe_tells_the_truth_about_this_machine(tmp_path: Path) -> None:
    facts = probe(str(tmp_path / "it's a root"))
    assert (facts.machine, facts.python) == (platform.machine(), sys.executable)
    assert facts.kernel == f"{platform.system()} {platform.release()}"
    assert facts.python_version == platform.python_version()
    assert (facts.user_land_bits, facts.python_bits, facts.has_numpy) == (64, 64, True)
    assert (facts.root, facts.root_writable, facts.agent_sha256) == (str(tmp_path / "it's a root"), True, None)
    usage = os.statvfs(tmp_path)
    assert facts.total_bytes == pytest.approx(usage.f_blocks * usage.f_frsize, rel=0.01)
    assert facts.free_bytes == pytest.approx(usage.f_bavail * usage.f_frsize, rel=0.2)
    assert sorted(path.name for path in (tmp_path / "it's a root").iterdir()) == ["agents", "objects", "tmp"]
    assert list((tmp_path / "it's a root" / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("root", "there"), [("~", ""), ("~/.edge deploy", ".edge deploy"), ("relative/x", "relative/x")]
)
def test_root_is_made_absolute_from_home(tmp_path: Path, root: str, there: str) -> None:
    assert probe(root, HOME=str(tmp_path)).root == str(tmp_path / there)


def test_probe_sees_the_agent_by_its_bytes(tmp_path: Path) -> None:
    content, digest = agent_bundle()
    probe(str(tmp_path))
    agent = tmp_path / "agents" / f"{digest}.pyz"
    agent.write_bytes(content)
    assert probe(str(tmp_path)).agent_sha256 == digest
    agent.write_bytes(content[:-1])
    assert probe(str(tmp_path)).agent_sha256 not in (None, digest)


@pytest.mark.parametrize(
    ("left", "empty"),
    [
        ("", True),
        ("lock", True),
        ("agents/x.pyz", True),
        ("objects/sha256/x", False),
        ("tmp/x", False),
        ("tmp/a link to nowhere", False),
    ],
)
def test_probe_tells_whether_anything_of_a_push_lies_there(tmp_path: Path, left: str, empty: bool) -> None:
    probe(str(tmp_path))
    if "link" in left:
        (tmp_path / left).symlink_to("nowhere")
    elif left:
        (tmp_path / left).touch()
    assert probe(str(tmp_path)).empty is empty


def test_probe_where_nothing_is_writable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    facts = probe(str(tmp_path / "file" / "root"))
    assert (facts.root_writable, facts.root) == (False, str(tmp_path / "file" / "root"))
    with pytest.raises(BoardError, match=r"cannot write to .*/file/root: Not a directory; make it writable"):
        check_facts(facts, Device("x", "here", "local:"), replace(PI_PROFILE, arch=platform.machine()), "python3")


def test_why_the_root_is_not_writable_is_the_boards_word_for_it() -> None:
    said = f"edgedeploy-probe:trouble=mkdir: \x1b[2J/x: {'long ' * 100}\x07\nedgedeploy-probe:root=/x\n"
    facts = parse_probe(said)
    assert facts.root_trouble.startswith("long long")
    assert len(facts.root_trouble) == 100
    assert facts.root_trouble.isprintable()
    assert parse_probe("edgedeploy-probe:trouble=mkdir: /x: \x1b[31mfull\n").root_trouble == "[31mfull"


def test_permission_is_told_as_such(tmp_path: Path) -> None:
    """Root may write everywhere: the probe then runs as nobody, who may not."""
    (tmp_path / "closed").mkdir(mode=0o555)
    command = probe_command(str(tmp_path / "closed" / "root"), "python3", "0" * 64)
    if os.geteuid() == 0:
        for folder in (tmp_path, *list(tmp_path.parents)[:2]):
            folder.chmod(0o755)
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    facts = parse_probe(done.stdout)
    assert (facts.root_writable, facts.root_trouble) == (False, "Permission denied")


def test_what_the_releases_take(tmp_path: Path) -> None:
    assert probe(str(tmp_path)).release_bytes == 0
    for number, size_bytes in ((1, 3 << 20), (2, 1 << 20), (3, 9 << 20)):
        (tmp_path / "releases" / str(number)).mkdir(parents=True)
        (tmp_path / "releases" / str(number) / "model.onnx").write_bytes(os.urandom(size_bytes))
    for link, number in (("current", 2), ("previous", 1)):
        (tmp_path / link).symlink_to(f"releases/{number}")
    assert probe(str(tmp_path)).release_bytes == pytest.approx(4 << 20, rel=0.02)
    (tmp_path / "previous").unlink()
    (tmp_path / "previous").symlink_to("releases/9")
    assert probe(str(tmp_path)).release_bytes == pytest.approx(1 << 20, rel=0.05)
    said = (
        "edgedeploy-probe:release=12\t/x\nedgedeploy-probe:release=du: no\nedgedeploy-probe:release=9999999999999 /\n"
    )
    assert parse_probe(said).release_bytes == 12 * 1024


def test_what_was_left_behind_yesterday_is_cleared_away(tmp_path: Path) -> None:
    probe(str(tmp_path))
    old, new, kept = tmp_path / "tmp" / "old", tmp_path / "tmp" / "new", tmp_path / "agents" / "old"
    for path in (old, new, kept):
        path.touch()
    for path in (old, kept):
        os.utime(path, (0, 0))
    probe(str(tmp_path))
    assert [path.exists() for path in (old, new, kept)] == [False, True, True]


def test_login_banners_are_passed_over() -> None:
    said = (
        "Welcome! machine=toaster\n*** motd ***\nedgedeploy-probe:machine=aarch64\nLast login: never\n"
        "edgedeploy-probe:kernel=Linux 6.6.31\nedgedeploy-probe:user_land_bits=64\nedgedeploy-probe:home=/home/pi\n"
        "edgedeploy-probe:root=/home/pi/a=b\nedgedeploy-probe:writable=yes\nedgedeploy-probe:python_found=yes\n"
        "edgedeploy-probe:disk=/dev/root with space 30000000 8000000 21000000  28% /\n"
        "edgedeploy-probe:python_version=3.11.2\r\nedgedeploy-probe:python_bits=64\n"
        "edgedeploy-probe:python=/usr/bin/python3\nedgedeploy-probe:nonsense\n"
    )
    free, total = 21_000_000 * 1024, 30_000_000 * 1024
    assert parse_probe(said) == replace(PI, root="/home/pi/a=b", free_bytes=free, total_bytes=total)


@pytest.mark.parametrize(
    ("line", "space"),
    [
        ("/dev/root 30000 8000 22000 27% /", (30000 << 10, 22000 << 10)),
        ("disk=/dev/root 30000 30000 -20 101% /", (30000 << 10, 0)),  # what is kept for root is in use too
        ("df: /x: No such file", None),
    ],
)
def test_space_on_a_disk(line: str, space: tuple[int, int] | None) -> None:
    assert disk_space(line) == space


def test_silence_is_no_board() -> None:
    facts = parse_probe("This account is currently not available.\n")
    assert (facts.machine, facts.python, facts.free_bytes, facts.root_writable) == ("", None, None, False)
    with pytest.raises(BoardError, match=r"^x: the board does not answer a POSIX shell"):
        check_facts(facts, Device("x", "pi4", "ssh://x"), PI_PROFILE, "python3")


def test_a_fitting_board_passes() -> None:
    device = Device("x", "pi4", "ssh://x")
    check_facts(PI, device, PI_PROFILE, "python3")
    check_facts(replace(PI, machine="arm64", user_land_bits=None), device, PI_PROFILE, "python3")
    check_facts(replace(PI, python_version="3.7.0"), device, PI_PROFILE, "python3")
    narrow = replace(PI, user_land_bits=32, python_bits=32)
    for machine in ("aarch64", "armv7l", "armv8l"):
        check_facts(replace(narrow, machine=machine), device, replace(PI_PROFILE, arch="armv7l"), "python3")
    untold = replace(narrow, user_land_bits=None, system=System(user_land="armv7l"))
    check_facts(untold, device, replace(PI_PROFILE, arch="armv7l"), "python3")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"user_land_bits": 32}, r"the kernel is 64-bit \(aarch64\) but the user land is 32-bit.*install the 64-bit"),
        ({"user_land_bits": None, "system": System(user_land="armv7l")}, r"\(aarch64\) but the user land is 32-bit"),
        ({"machine": "armv8l", "python_bits": 32}, r"64-bit \(armv8l\) but the user land is 32-bit"),
        ({"python_bits": 32}, r"64-bit \(aarch64\) but the Python \(/usr/bin/python3\) is 32-bit"),
        ({"machine": "x86_64"}, "is a x86_64 machine but its profile pi4 is for aarch64; correct `profile`"),
        ({"machine": "armv7l", "user_land_bits": 32}, "is a armv7l machine but its profile pi4 is for aarch64"),
        (
            {"python_found": False, "python_version": None},
            r"no Python: `python3` is not there; run `edgedeploy provision`, install python3 .* `python =",
        ),
        ({"python_version": None}, "no Python: `python3` does not run"),
        (
            {"python_version": "3.6.15"},
            r"Python 3\.6\.15 \(/usr/bin/python3\) is too old, 3\.7 is the least; run `edgedeploy provision`",
        ),
        ({"python_version": "2.7.18"}, "too old"),
        ({"root_writable": False}, r"cannot write to /home/pi/\.edgedeploy; make it writable .* `root ="),
        (
            {"root_writable": False, "root_trouble": "Permission denied"},
            r"\.edgedeploy: Permission denied; make it writable for the user who .* `root =` .* to a folder that is\.$",
        ),
        (
            {"root_writable": False, "root_trouble": "No space left on device", "free_bytes": 0},
            r"\.edgedeploy: No space left on device; remove files there, or set `root =` .* on another file system\.$",
        ),
        (
            {"root_writable": False, "root_trouble": "No space left on device"},
            "No space left on device, for its inodes are used up; remove files there",
        ),
        ({"root_writable": False, "root_trouble": "Disk quota exceeded"}, "Disk quota exceeded; remove files there"),
        (
            {"root_writable": False, "root_trouble": "Read-only file system"},
            "Read-only file system; mount it writable .* to a folder that is writable",
        ),
    ],
)
def test_unfit_boards_say_why(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(BoardError, match=f"^x: .*{complaint}"):
        check_facts(replace(PI, **changes), Device("x", "pi4", "ssh://x"), PI_PROFILE, "python3")  # type: ignore[arg-type]


@pytest.fixture
def stub(stubs: Path) -> Iterator[object]:
    """Puts a program that lies on the SSH board's PATH."""
    made: list[Path] = []

    def make(name: str, script: str) -> Path:
        path = stubs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        made.append(path)
        return path

    yield make
    for path in made:
        path.unlink()


@pytest.mark.parametrize(
    ("program", "script", "complaint"),
    [
        ("getconf", "echo 32", "but the user land is 32-bit"),
        ("uname", "echo riscv64", "is a riscv64 machine but its profile here is for"),
        ("python3", "exit 127", "no Python: `python3` does not run"),
        (
            "python3",
            f'exec "{sys.executable}" -c "import sys; sys.version_info = (3, 6, 15); exec(sys.argv.pop(1))" "$2" "$3"',
            r"Python 3\.6\.15",
        ),
    ],
)
def test_real_login_to_an_unfit_board(
    over_ssh: Device, profile: DeviceProfile, stub: object, program: str, script: str, complaint: str
) -> None:
    assert callable(stub)
    stub(program, script)
    with pytest.raises(BoardError, match=f"^ssh-board: .*{complaint}"), open_board(over_ssh, profile, Path()):
        pass


def test_python_of_the_fleet_that_is_not_there(device: Device, profile: DeviceProfile) -> None:
    with (
        pytest.raises(BoardError, match=re.escape("no Python: `/opt/none/python3` is not there")),
        open_board(replace(device, python="/opt/none/python3"), profile, Path()),
    ):
        pass
