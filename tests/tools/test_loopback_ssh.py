from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.servers import SERVER_KINDS, transport_to
from tools import loopback_ssh as tool
from tools.loopback_ssh import Kind, loopback_ssh


@pytest.mark.parametrize("kind", SERVER_KINDS)
def test_environment_is_set_in_every_session(tmp_path: Path, kind: Kind) -> None:
    value = "two words \\ \"quoted\" 'x' $y"
    with (
        loopback_ssh(tmp_path, kind=kind, environment={"ONE": value, "TWO": "2"}) as server,
        transport_to(server) as ssh,
    ):
        said = ssh.run(["sh", "-c", 'printf "%s|%s" "$ONE" "$TWO"'], timeout_s=20).stdout
    assert said.decode() == f"{value}|2"


@pytest.mark.parametrize("kind", SERVER_KINDS)
def test_started_again_it_is_the_same_board_and_nothing_runs_on(tmp_path: Path, kind: Kind) -> None:
    keys = []
    for _ in range(2):
        with loopback_ssh(tmp_path / "a folder", kind=kind) as server:
            keys.append(server.known_hosts.read_text().split()[1:])
            os.kill(server.pid, 0)
        with pytest.raises(ProcessLookupError):
            os.kill(server.pid, 0)
    assert keys[0] == keys[1]
    assert (server.client_key.stat().st_mode & 0o777, server.kind) == (0o600, kind)


def test_openssh_clients_can_use_its_configuration(tmp_path: Path) -> None:
    with loopback_ssh(tmp_path) as server:
        command = ["ssh", "-F", str(server.ssh_config), server.alias, "echo hello"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.returncode) == ("hello\n", 0), done.stderr


def test_without_sshd_the_other_server_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "find_sshd", lambda: None)
    with loopback_ssh(tmp_path) as server:
        assert server.kind == "asyncssh"
    with (
        pytest.raises(RuntimeError, match="no SSH server could be started on loopback: there is no sshd"),
        loopback_ssh(tmp_path, kind="openssh"),
    ):
        pass


def test_sshd_that_does_not_start_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "find_sshd", lambda: Path("/bin/false"))
    with loopback_ssh(tmp_path) as server:
        assert server.kind == "asyncssh"
