"""What keeps a long link busy, told by what is under way and not by the clock."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paramiko

from edgedeploy.transport.ssh import CHUNK_BYTES, UNDER_WAY, WRITE_BYTES
from tests.servers import transport_to
from tools.loopback_ssh import LoopbackServer

if TYPE_CHECKING:
    import pytest


def test_writes_go_on_while_answers_are_on_their_way(
    server: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way: list[int] = []
    real: Any = paramiko.SFTPFile._write  # type: ignore[attr-defined]

    def write(file: Any, data: bytes) -> Any:
        written = real(file, data)
        under_way.append(len(file._reqs))
        return written

    monkeypatch.setattr(paramiko.SFTPFile, "_write", write)
    content = os.urandom(10 << 20)
    (tmp_path / "source").write_bytes(content)
    with transport_to(server) as board:
        board.put(tmp_path / "source", str(tmp_path / "copy"), timeout_s=60)
    assert (tmp_path / "copy").read_bytes() == content
    *midst, last = under_way[UNDER_WAY:]
    assert min(midst) >= UNDER_WAY
    assert max(midst) <= UNDER_WAY + CHUNK_BYTES // WRITE_BYTES
    assert last == 0, "every write was answered in the end"
