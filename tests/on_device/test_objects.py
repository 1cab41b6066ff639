"""What is admitted to a board's objects has been hashed there; what is found corrupt is sent again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.on_device.lock import Locked, board_lock
from edgedeploy.on_device.objects import admit, inventory, object_path
from tests.on_device.virtual_board import sha256

CONTENT = b"weights " * 1000
SHA = sha256(CONTENT)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "upload").write_bytes(CONTENT)
    return tmp_path


def admission(digest: str = SHA, size_bytes: int = len(CONTENT), temporary: str = "tmp/upload") -> dict[str, Any]:
    return {"op": "admit", "objects": [{"temporary": temporary, "sha256": digest, "size_bytes": size_bytes}]}


def stored(root: Path) -> Path:
    return Path(object_path(str(root), SHA))


def test_a_good_upload_becomes_a_read_only_object(root: Path) -> None:
    assert admit(admission(), str(root)) == {"op": "admit", "admitted": [SHA], "refused": []}
    assert stored(root).read_bytes() == CONTENT
    assert stored(root).stat().st_mode & 0o777 == 0o444
    assert not (root / "tmp" / "upload").exists()


def test_admitting_again_replaces_a_corrupt_copy(root: Path) -> None:
    stored(root).parent.mkdir(parents=True)
    stored(root).write_bytes(b"rot")
    assert admit(admission(), str(root))["admitted"] == [SHA]
    assert stored(root).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (admission(digest="0" * 64), f"tmp/upload: its SHA-256 is {SHA}"),
        (admission(size_bytes=5), "tmp/upload: it has 8000 bytes instead of 5"),
    ],
)
def test_a_bad_upload_is_refused_and_removed(root: Path, entry: dict[str, Any], reason: str) -> None:
    answer = admit(entry, str(root))
    assert answer["admitted"] == []
    assert [refusal["reason"] for refusal in answer["refused"]] == [reason]
    assert not (root / "tmp" / "upload").exists()
    assert not any((root / "objects" / "sha256").iterdir())


def test_a_missing_upload_is_refused(root: Path) -> None:
    assert admit(admission(temporary="tmp/gone"), str(root))["refused"][0]["reason"] == "tmp/gone is not there"


def test_links_and_pipes_are_no_uploads(root: Path) -> None:
    outside = root / "secret"
    outside.write_bytes(CONTENT)
    (root / "tmp" / "link").symlink_to(outside)
    os.mkfifo(root / "tmp" / "pipe")
    answer = admit(admission(temporary="tmp/link"), str(root))
    assert answer["refused"][0]["reason"] == "tmp/link: it is a symbolic link"
    assert outside.read_bytes() == CONTENT
    assert "no plain file" in admit(admission(temporary="tmp/pipe"), str(root))["refused"][0]["reason"]
    (root / "tmp" / "folder").mkdir()
    assert "no plain file" in admit(admission(temporary="tmp/folder"), str(root))["refused"][0]["reason"]


@pytest.mark.fault
def test_folders_in_the_place_of_uploads(root: Path) -> None:
    """A folder with the name of an upload costs neither the agent nor what real uploads have brought."""
    folders = [root / "tmp" / f"{'0' * 16}-{SHA}@{place}" for place in (0, 100)]
    upload = root / "tmp" / f"{'1' * 16}-{SHA}@0"
    upload.write_bytes(CONTENT[:5000])
    for folder in folders:
        (folder / "inside").mkdir(parents=True)
    for path in (upload, *folders):
        os.utime(path, (0, 0))
    ask = {"op": "inventory", "objects": {SHA: len(CONTENT)}}
    for _ in range(2):
        (mark,) = inventory(ask, str(root))["partial"][SHA]
        assert mark == {"bytes": 5000, "sha256": sha256(CONTENT[:5000])}
    kept = root / "tmp" / f"{SHA}.part"
    kept.unlink()
    kept.mkdir()
    upload.write_bytes(CONTENT[:5000])
    assert inventory(ask, str(root))["partial"] == {}
    assert admit(admission(), str(root))["admitted"] == [SHA]
    assert all(folder.is_dir() for folder in folders)


def test_one_bad_upload_does_not_keep_a_good_one_out(root: Path) -> None:
    both = {"op": "admit", "objects": admission(temporary="tmp/gone")["objects"] + admission()["objects"]}
    answer = admit(both, str(root))
    assert answer["admitted"] == [SHA]
    assert len(answer["refused"]) == 1


def test_inventory_hashes_and_removes_what_is_corrupt(root: Path) -> None:
    admit(admission(), str(root))
    other = object_path(str(root), "1" * 64)
    Path(other).write_bytes(b"x" * 10)
    answer = inventory({"objects": {SHA: len(CONTENT), "1" * 64: 10, "2" * 64: 3}}, str(root))
    assert answer["present"] == [SHA]
    assert 0 < answer["free_bytes"] <= answer["total_bytes"]
    assert not Path(other).exists()


def test_inventory_of_a_truncated_object_is_absent(root: Path) -> None:
    admit(admission(), str(root))
    stored(root).chmod(0o644)
    stored(root).write_bytes(CONTENT[:-1])
    assert inventory({"objects": {SHA: len(CONTENT)}}, str(root))["present"] == []
    assert not stored(root).exists()


def test_inventory_of_a_root_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    answer = inventory({"objects": {SHA: 1}}, str(tmp_path / "not" / "yet"))
    assert answer["present"] == []
    assert answer["total_bytes"] > 0


def test_a_held_lock_names_its_holder(root: Path) -> None:
    with board_lock(str(root)), pytest.raises(Locked, match=rf"process {os.getpid()} \(since 20.*UTC\) holds .*lock"):
        admit(admission(), str(root))
    assert (root / "tmp" / "upload").exists()
    assert admit(admission(), str(root))["admitted"] == [SHA]


def test_a_lock_file_of_a_dead_process_holds_nobody(root: Path) -> None:
    (root / "lock").write_text('{"pid": 1, "started_unix_ns": 1}')
    with board_lock(str(root)):
        pass
    assert (root / "lock").read_text() == ""
