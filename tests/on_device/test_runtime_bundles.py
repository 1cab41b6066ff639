"""A provisioned runtime is there whole and tried, or the board is as it was."""

from __future__ import annotations

import os
import signal
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests import runtime_bundles
from tests.on_device.virtual_board import VirtualBoard
from tests.runtime_bundles import RUNTIME, archive, entry, operation

GOOD = archive()
OTHER = archive(files=RUNTIME | {"site/onnxruntime/__init__.py": b'__version__ = "99.2"\n'})


def state(board: VirtualBoard) -> tuple[str, list[str], list[str]]:
    """What jobs use, what runtimes lie there, what was left in tmp."""
    runtimes = board.root / "runtimes"
    pointer = runtimes / "current"
    names = sorted(path.name for path in runtimes.iterdir() if path.is_dir()) if runtimes.exists() else []
    left = sorted(path.name for path in (board.root / "tmp").iterdir())
    return pointer.read_text() if pointer.exists() else "", names, left


def brought(board: VirtualBoard, packed: bytes, **more: Any) -> dict[str, Any]:
    board.put(packed)
    [result] = board.run(operation(packed, **more))
    return result


def test_a_good_runtime_is_tried_and_used(board: VirtualBoard) -> None:
    result = brought(board, GOOD, python="/usr/bin/python3.8")
    digest = operation(GOOD)["sha256"]
    assert (result["runtimes"], result["failed"]) == ({"onnxruntime": "99.1"}, {})
    assert state(board) == (f"{digest}\n/usr/bin/python3.8\n", [digest], [])
    assert not (board.root / "objects" / "sha256" / digest).exists()
    assert oct((board.root / "runtimes" / digest / "bundle.json").stat().st_mode)[-3:] == "644"


def test_workers_find_it_only_when_the_job_names_it(board: VirtualBoard) -> None:
    brought(board, GOOD)
    board.write_job({"op": "facts"})
    with board.start("--bundle", operation(GOOD)["sha256"]) as process:
        process.communicate(timeout=120)
    assert board.results()[0]["facts"]["runtimes"]["onnxruntime"] == "99.1"
    [plain] = board.run({"op": "facts"})
    assert plain["facts"]["runtimes"].get("onnxruntime") != "99.1"


def test_what_need_not_import_is_tried_too(board: VirtualBoard) -> None:
    result = brought(board, GOOD, also=["tflite_runtime"])
    assert result["runtimes"] == {"onnxruntime": "99.1"}
    assert list(result["failed"]) == ["tflite_runtime"]
    verifier = {"site/nacl/__init__.py": b'__version__ = "9"\n', "site/nacl/signing.py": b""}
    alone = archive(files={"bundle.json": b"{}"} | verifier)
    was = state(board)
    error = brought(board, alone, imports=["tflite_runtime"], also=["nacl"])["error"]
    assert "nothing in it can be imported here" in error["message"], "that it brings alone what need not import"
    assert state(board) == was
    assert brought(board, alone, imports=["nacl"])["runtimes"] == {"nacl": "9"}


def test_a_part_that_was_spoilt_there_is_unpacked_again(board: VirtualBoard) -> None:
    files = RUNTIME | {"site/nacl/__init__.py": b'__version__ = "9"\n', "site/nacl/signing.py": b""}
    packed = archive(files=files)
    brought(board, packed, also=["nacl"])
    module = board.root / "runtimes" / operation(packed)["sha256"] / "site/nacl/signing.py"
    module.write_text("this is no Python")
    assert set(brought(board, packed, also=["nacl"])["runtimes"]) == {"onnxruntime", "nacl"}
    assert state(board)[2] == []


def test_the_next_one_replaces_it(board: VirtualBoard) -> None:
    brought(board, GOOD)
    assert brought(board, OTHER)["runtimes"] == {"onnxruntime": "99.2"}
    digest = operation(OTHER)["sha256"]
    assert state(board) == (f"{digest}\npython3\n", [digest], [])


def test_what_is_there_and_runs_is_not_unpacked_again(board: VirtualBoard) -> None:
    brought(board, GOOD)
    [again] = board.run(operation(GOOD))  # its object is gone
    assert again["runtimes"] == {"onnxruntime": "99.1"}


def test_what_was_spoilt_there_is_unpacked_again(board: VirtualBoard) -> None:
    brought(board, GOOD)
    module = board.root / "runtimes" / operation(GOOD)["sha256"] / "site/onnxruntime/__init__.py"
    module.write_text("this is no Python")
    assert brought(board, GOOD)["runtimes"] == {"onnxruntime": "99.1"}
    assert module.read_bytes() == RUNTIME["site/onnxruntime/__init__.py"]


BAD: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "truncated": (archive(entry("site/more", os.urandom(50_000)))[:-30_000], {}, "it cannot be read"),
    "no archive": (b"GIF89a", {}, "it cannot be read"),
    "climbs": (archive(entry("../evil", b"x")), {}, r"'\.\./evil', which leads outside"),
    "climbs inside": (archive(entry("site/../../evil", b"x")), {}, "which leads outside"),
    "absolute": (archive(entry("/tmp/evil", b"x")), {}, "'/tmp/evil', which leads outside"),
    "link out": (archive(entry("site/out", kind=tarfile.SYMTYPE, link="/etc")), {}, "which is no plain file"),
    "hard link": (archive(entry("site/hard", kind=tarfile.LNKTYPE, link="bundle.json")), {}, "which is no plain file"),
    "device": (archive(entry("site/null", kind=tarfile.CHRTYPE)), {}, "which is no plain file"),
    "too many bytes": (archive(entry("site/big", bytes(2 << 20))), {}, "unpacks to more than 1048576 bytes"),
    "twice": (archive(entry("site/x", b"1"), entry("site/x", b"2")), {}, "holds 'x' twice"),
    "another size": (GOOD, {"size_bytes": 3}, "bytes instead of 3"),
    "no runtime": (archive(files={"bundle.json": b"{}"}), {"imports": ["tflite_runtime"]}, "nothing in it can be"),
    "no space": (GOOD, {"unpacked_bytes": 1 << 50}, "the runtime needs 1073741824 MiB and"),
}


@pytest.mark.fault
@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("before", [None, OTHER], ids=["bare", "provisioned"])
def test_a_bad_bundle_changes_nothing(board: VirtualBoard, case: str, before: bytes | None) -> None:
    """A bundle that is cut, hostile, too large or of no use is refused with its reason, and the board is as before."""
    if before is not None:
        brought(board, before)
    was = state(board)
    packed, more, reason = BAD[case]
    error = brought(board, packed, **more)["error"]
    assert error["kind"] == ("io" if case == "no space" else "refused")
    import re

    assert re.search(reason, error["message"])
    assert state(board) == was
    assert not (board.root.parent / "evil").exists()


@pytest.mark.fault
def test_a_flipped_byte_is_not_unpacked(board: VirtualBoard) -> None:
    """An object that rotted after it was admitted is told by its hash before a byte of it is unpacked."""
    digest = board.put(GOOD)
    spoilt = bytearray(GOOD)
    spoilt[len(spoilt) // 2] ^= 1
    (board.root / "objects" / "sha256" / digest).write_bytes(bytes(spoilt))
    [result] = board.run(operation(GOOD))
    assert result["error"]["kind"] == "refused"
    assert "its SHA-256 is" in result["error"]["message"]
    assert state(board) == ("", [], [])


@pytest.mark.fault
def test_killed_while_unpacking_and_then_again(board: VirtualBoard) -> None:
    """An agent that is killed while it unpacks leaves the old runtime in use; the next job clears up and succeeds."""
    brought(board, OTHER)
    was = state(board)
    files = RUNTIME | {f"site/part{number}": os.urandom(1 << 16) for number in range(400)}
    packed = runtime_bundles.archive(files=files)
    board.put(packed)
    board.write_job(operation(packed, unpacked_bytes=64 << 20))
    with board.start() as process:
        deadline = time.monotonic() + 60
        while not list((board.root / "tmp").glob("runtime-*/unpacked/site/part1*")) and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert state(board)[:2] == was[:2]
    assert state(board)[2] != []
    [result] = board.run(operation(packed, unpacked_bytes=64 << 20))
    assert result["runtimes"] == {"onnxruntime": "99.1"}
    assert state(board) == (f"{operation(packed)['sha256']}\npython3\n", [operation(packed)["sha256"]], [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"python": "python3\nrm -rf /"}, "python must be one line of text"),
        ({"sha256": "../../etc"}, "sha256 must be a SHA-256"),
        ({"imports": []}, "imports must be a list of 1 to 16"),
    ],
)
def test_a_malformed_order_is_a_bad_job(board: VirtualBoard, change: dict[str, Any], message: str) -> None:
    board.write_job(operation(GOOD) | change, check=False)
    with board.start() as process:
        process.communicate(timeout=60)
    [result] = board.results()
    assert result["error"]["kind"] == "bad_job"
    assert message in result["error"]["message"]


def test_other_folders_among_the_runtimes_are_left_alone(board: VirtualBoard) -> None:
    runner = board.root / "runtimes" / ("a" * 64)
    runner.mkdir(parents=True)
    brought(board, GOOD)
    brought(board, OTHER)
    assert runner.is_dir()


def test_no_bundle_name_leads_outside(board: VirtualBoard, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    brought(board, GOOD)
    (board.root / "runtimes" / "current").write_text(f"../../{outside.name}\npython3\n")
    brought(board, OTHER)
    assert outside.is_dir()
