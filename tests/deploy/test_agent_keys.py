"""Keys that ssh-agent holds, and keys with a passphrase, sign like any other, or say in one sentence why not."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedeploy.cli import main
from edgedeploy.deploy import SigningKey, load_key, new_key
from edgedeploy.deploy.keys import signer_of
from edgedeploy.errors import PlanError
from tests.deploy.releasing import Built, Kitchen
from tests.support.project import write_project

SECRET = "correct horse"


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path / "config" / "edgedeploy" / "keys"


@pytest.fixture
def agent(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[subprocess.Popen[bytes]]:
    """A real ssh-agent that holds nothing yet."""
    socket = tmp_path_factory.mktemp("a") / "s"  # the name of a socket is short
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 20
        while not socket.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        yield process
        process.terminate()


def add(key: SigningKey) -> None:
    subprocess.run(["ssh-add", "-q", str(key.path)], check=True, timeout=30, stdin=subprocess.DEVNULL)


def lock(key: SigningKey) -> None:
    """Give a key a passphrase, as its user would."""
    argv = ["ssh-keygen", "-q", "-p", "-f", str(key.path), "-P", "", "-N", SECRET]
    subprocess.run(argv, check=True, timeout=30, stdout=subprocess.DEVNULL)


def nobody(prompt: str) -> str:
    raise AssertionError(f"nobody is to be asked: {prompt}")


def test_a_key_that_the_agent_alone_has(agent: object, first: Built, tmp_path: Path) -> None:
    key = new_key("release")
    add(key)
    key.path.unlink()
    loaded = load_key("release", nobody)
    text = loaded.sign("a manifest\n", "edgedeploy")
    assert text == key.sign("a manifest\n", "edgedeploy"), "ed25519 signs the same in the same way"
    assert signer_of("a manifest\n", text, "edgedeploy") == key.fingerprint
    kitchen = Kitchen(tmp_path / "board", loaded)
    kitchen.enrol()
    assert kitchen.do(kitchen.operation(1, first))["outcome"] == "active"


def test_a_key_with_a_passphrase_that_the_agent_has(agent: object) -> None:
    key = new_key("release")
    add(key)
    lock(key)
    assert load_key("release", nobody).sign("x", "edgedeploy") == key.sign("x", "edgedeploy")


def test_a_passphrase_is_asked_for(agent: object) -> None:
    key = new_key("release")
    lock(key)
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return SECRET

    assert load_key("release", ask).sign("x", "edgedeploy") == key.sign("x", "edgedeploy")
    assert asked == [f"Passphrase of {key.path}: "]
    with pytest.raises(PlanError, match="release: this is not its passphrase"):
        load_key("release", lambda prompt: "wrong")
    with pytest.raises(PlanError, match="release: this is not its passphrase"):
        load_key("release", lambda prompt: "")


@pytest.mark.fault
def test_a_passphrase_where_there_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key with a passphrase is refused in one sentence where nobody can be asked, and boards are left alone."""
    key = new_key("release")
    lock(key)
    folder = write_project(tmp_path / "project")
    assert main(["keys", "enrol", "--project", str(folder), "--device", "here"]) == 2
    told = capsys.readouterr().err
    assert "the private key has a passphrase, and there is no terminal to ask for it; add the key to ssh-agent" in told
    assert f"with `ssh-add {key.path}`." in told
    assert not (folder / "board").exists()


def test_a_passphrase_is_asked_for_on_the_terminal(tmp_path: Path) -> None:
    key = new_key("release")
    lock(key)
    folder = write_project(tmp_path / "project")
    argv = [sys.executable, "-m", "edgedeploy", "keys", "enrol", "--project", str(folder), "--device", "here"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        seen = b""
        while b"Passphrase of" not in seen:
            seen += os.read(ours, 4096)
        os.write(ours, f"{SECRET}\n".encode())
        try:
            while chunk := os.read(ours, 4096):
                seen += chunk
        except OSError:
            pass  # how Linux tells that the other end is closed
    os.close(ours)
    assert process.returncode == 0, seen.decode()
    assert key.fingerprint.encode() in seen
    assert SECRET.encode() not in seen


@pytest.mark.fault
def test_a_key_that_nobody_has(agent: object) -> None:
    """A public key without its private part is refused with what to do, with an agent that lacks it and without one."""
    key, other = new_key("release"), new_key("other")
    add(other)
    key.path.unlink()
    with pytest.raises(
        PlanError, match="the private key is not there, and no ssh-agent that SSH_AUTH_SOCK names holds"
    ):
        load_key("release", nobody)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SSH_AUTH_SOCK")
        with pytest.raises(PlanError, match="add it to one with `ssh-add`"):
            load_key("release", nobody)


@pytest.mark.fault
@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["emptied", "gone"])
def test_an_agent_that_does_not_sign_after_all(agent: subprocess.Popen[bytes], how: str) -> None:
    """An agent that has lost the key since, or has ended, is an error that says so; nothing asks for a passphrase."""
    key = new_key("release")
    add(key)
    key.path.unlink()
    loaded = load_key("release", nobody)
    if how == "emptied":
        subprocess.run(["ssh-add", "-q", "-D"], check=True, timeout=30)
    else:
        agent.send_signal(signal.SIGKILL)
        agent.wait()
    with pytest.raises(PlanError, match=r"ssh-agent did not sign the release \(.+\); unlock it or add the key again"):
        loaded.sign("x", "edgedeploy")


@pytest.mark.fault
def test_without_openssh_no_agent_can_be_asked(agent: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where OpenSSH's tools are not there, that is told, not a missing key."""
    key = new_key("release")
    key.path.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        PlanError, match=r"`ssh-add` cannot be run \(No such file or directory\).*install openssh-client"
    ):
        load_key("release", nobody)
