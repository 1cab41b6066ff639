"""What a board tells without Python, and which Python and which runtime its jobs are to use."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgedeploy.board.facts import BoardFacts, System, machine_of, parse_probe, probe_command
from edgedeploy.board.inspecting import describe, found_on
from edgedeploy.board.provision import _board
from edgedeploy.records import Device
from edgedeploy.transport.local import LocalTransport
from tests.board.test_facts import PI

DIGEST = "ab" * 32


def probe(root: Path, python: str = sys.executable, *, named: bool = False, **environment: str) -> BoardFacts:
    command = probe_command(str(root), python, "0" * 64, named=named)
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return parse_probe(done.stdout)


def script(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def bundle(root: Path, python: str, *, own: bool = False) -> Path:
    folder = root / "runtimes" / DIGEST
    folder.mkdir(parents=True)
    (folder / "bundle.json").touch()
    (root / "runtimes" / "current").write_text(f"{DIGEST}\n{python}\n")
    if own:
        # What a loader does: start the program that comes after its own options.
        script(
            folder / "lib" / "ld-linux-x.so.1",
            f'[ "$1" = --library-path ] || exit 9\nshift 3\nexec {sys.executable} "$@"',
        )
        script(folder / "bin" / "python3", "exit 9")
    return folder


def test_a_board_without_python_tells_what_it_is(tmp_path: Path) -> None:
    facts = probe(tmp_path / "root", "/no/such/python", PATH="/usr/bin:/bin")
    system = facts.system
    assert (facts.python, facts.interpreter) == (None, ())
    assert system.user_land == platform.machine()
    assert system.libc == f"glibc {platform.libc_ver()[1]}"
    assert system.isa
    assert (system.executable, system.executable_place, system.has_tar) == (True, "", True)
    assert system.memory_bytes == pytest.approx(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), rel=0.05)
    found = found_on(facts, None)
    assert (found.machine, found.python, found.runtimes) == (platform.machine(), "", {})


def test_getconf_is_not_needed(tmp_path: Path) -> None:
    """Small systems have none; the C library is then what Python says, the width what the programs are."""
    script(tmp_path / "bin" / "getconf", "exit 127")
    facts = probe(tmp_path / "root", PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    assert facts.user_land_bits is None
    assert facts.system.libc == f"glibc {platform.libc_ver()[1]}"
    assert machine_of(facts) == platform.machine()


@pytest.mark.parametrize(
    ("changes", "machine"),
    [
        ({"machine": "aarch64", "system": System(user_land="armv7l")}, "armv7l"),
        ({"machine": "aarch64", "user_land_bits": 32}, "armv7l"),
        ({"machine": "armv8l"}, "armv7l"),
        ({"machine": "aarch64"}, "aarch64"),
        ({"machine": "arm64"}, "aarch64"),
        ({"machine": "amd64"}, "x86_64"),
        ({"machine": "armv6l"}, "armv6l"),
    ],
)
def test_the_user_land_counts(changes: dict[str, object], machine: str) -> None:
    assert machine_of(replace(PI, **changes)) == machine  # type: ignore[arg-type]


def test_another_python_stands_in_for_one_too_old(tmp_path: Path) -> None:
    old = script(
        tmp_path / "bin" / "python3", 'echo "edgedeploy-probe:python_version=3.6.9"; echo "edgedeploy-probe:python=/o"'
    )
    for minor in range(10, 14):
        script(tmp_path / "bin" / f"python3.{minor}", "echo shim >&2; exit 127")
    script(tmp_path / "bin" / "python3.9", "echo 3.9")
    facts = probe(tmp_path / "root", "python3", PATH=f"{tmp_path}/bin:/usr/bin:/bin")
    assert facts.system.other_python == ("3.9", f"{tmp_path}/bin/python3.9")
    device = Device("x", "pi4", "local:")
    board = _board(LocalTransport("x"), facts, device)
    assert board is not None
    assert board.interpreter == (f"{tmp_path}/bin/python3.9",)
    assert _board(LocalTransport("x"), facts, replace(device, python=old)) is None


def test_wheels_are_found_with_the_python_they_were_made_for(tmp_path: Path) -> None:
    folder = bundle(tmp_path, sys.executable)
    (folder / "site" / "numpy").mkdir(parents=True)
    facts = probe(tmp_path, "/no/such/python")
    assert (facts.bundle, facts.interpreter, facts.has_numpy) == (DIGEST, (sys.executable,), True)
    assert probe(tmp_path, "/no/such/python", named=True).bundle is None
    assert probe(tmp_path, sys.executable, named=True).bundle == DIGEST


def test_a_python_of_its_own_is_started_by_its_loader(tmp_path: Path) -> None:
    folder = bundle(tmp_path, "", own=True)
    assert probe(tmp_path, "/no/such/python", named=True).bundle is None  # asked for since
    facts = probe(tmp_path, "/no/such/python")
    assert facts.bundle == DIGEST
    assert facts.interpreter == (f"{folder}/lib/ld-linux-x.so.1", "--library-path", f"{folder}/lib", sys.executable)
    told = {"python": "3.11.2", "word_bits": 64, "runtimes": {"onnxruntime": "1"}, "libraries": {}}
    described = describe(facts, told)
    assert (described.python, described.present) == ((), {})  # what was brought is no part of the board


@pytest.mark.parametrize(
    ("says", "there"),
    [
        ("ssh-keygen: option requires an argument -- Y", True),
        ("ssh-keygen: option requires an argument: Y", True),  # musl
        ("unknown option -- Y", False),
        ("Usage: dropbearkey -t <type>", False),
        (None, False),
    ],
)
def test_only_an_ssh_keygen_that_checks_signatures_counts(tmp_path: Path, says: str | None, there: bool) -> None:
    if says is None:
        script(tmp_path / "bin" / "ssh-keygen", "exit 127")
    else:
        script(tmp_path / "bin" / "ssh-keygen", f"echo '{says}' >&2; exit 1")
    facts = probe(tmp_path / "root", PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    assert facts.system.has_ssh_keygen is there
    assert probe(tmp_path / "root").system.has_ssh_keygen
    assert found_on(facts, {"verifier": "nacl", "runtimes": {}}).verifier == ("ssh-keygen" if there else "nacl")


def test_a_verifier_that_was_brought_is_no_part_of_the_board() -> None:
    told = {"python": "3.11.2", "word_bits": 64, "runtimes": {}, "libraries": {}}
    for verifier, verifies in (("cryptography", True), ("nacl", True), ("", False)):
        assert describe(PI, told | {"verifier": verifier}).verifies is verifies
    brought = replace(PI, bundle=DIGEST, bundle_packages=("cffi", "pynacl"))
    assert not describe(brought, told | {"verifier": "nacl"}).verifies
    assert describe(brought, told | {"verifier": "cryptography"}).verifies
    # a Python that was brought goes with its bundle, and so does what only it can import
    assert not describe(replace(brought, loader="/x"), told | {"verifier": "cryptography"}).verifies
    assert describe(replace(brought, loader="/x", system=System(has_ssh_keygen=True)), told).verifies


def test_a_terminal_is_not_steered_by_a_board() -> None:
    said = "edgedeploy-probe:model=\x1b[2JPi\nedgedeploy-probe:executable_place=/a\x07b\n"
    system = parse_probe(said).system
    assert (system.model, system.executable_place) == ("[2JPi", "/ab")


@pytest.mark.parametrize(
    ("line", "libc"),
    [
        ("libc=glibc 2.31", "glibc 2.31"),
        ("libc=glibc 2.31.9000", "glibc 2.31"),
        ("libc=32", ""),
        ("musl=/lib/ld-musl-aarch64.so.1", "musl"),
        ("bionic=yes", "bionic"),
        ("python_libc=glibc 2.27", "glibc 2.27"),
    ],
)
def test_c_libraries(line: str, libc: str) -> None:
    assert parse_probe(f"edgedeploy-probe:{line}\n").system.libc == libc
