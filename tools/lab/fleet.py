"""Writes what others need to reach the lab: keys, an OpenSSH configuration, known hosts and a fleet.toml."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.lab.boards import VirtualBoard
from tools.loopback_ssh import make_key

SHARES = "the lab's machine"


def client_key(folder: Path) -> Path:
    """The private key that every board of the lab lets in; made where there is none."""
    return _key(folder, "client")


def host_key(folder: Path, board: str) -> Path:
    """The private key by which a board is known; made where there is none."""
    return _key(folder, board)


def _key(folder: Path, name: str) -> Path:
    path = folder / "keys" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    make_key(path)
    return path


def write_access(folder: Path, boards: Sequence[VirtualBoard]) -> None:
    """Write folder/ssh_config, known_hosts and fleet.toml for these boards; every path in them is absolute."""
    folder = folder.resolve()
    reached = [board for board in boards if board.kind.link == "ssh"]
    hosts = [f"{board.address} {make_key(host_key(folder, board.name))}" for board in reached]
    (folder / "known_hosts").write_text("".join(f"{line}\n" for line in hosts))
    (folder / "ssh_config").write_text("\n".join(_ssh_host(folder, board) for board in reached))
    head = "# Written by the lab: its boards, for any project (`cp` it there).\n"
    (folder / "fleet.toml").write_text("\n".join([head, *(_device(folder, board) for board in boards)]))


def _ssh_host(folder: Path, board: VirtualBoard) -> str:
    return f"""\
Host {board.name}
    HostName {board.address}
    User {board.kind.user}
    IdentityFile "{client_key(folder)}"
    IdentitiesOnly yes
    UserKnownHostsFile "{folder / "known_hosts"}"
    StrictHostKeyChecking yes
"""


def _device(folder: Path, board: VirtualBoard) -> str:
    if board.kind.link == "adb":
        where = f'address = "adb://{board.address}:{board.port}"\nroot = "/data/local/tmp/edgedeploy"'
    else:
        where = f'address = "ssh://{board.name}"\nssh_config = "{folder / "ssh_config"}"'
    emulated = "true" if board.kind.emulated else "false"
    return f"""\
[[device]]
name = "{board.name}"
profile = "{board.kind.profile}"
{where}
shares = "{SHARES}"
emulated = {emulated}
tags = ["lab"]
"""
