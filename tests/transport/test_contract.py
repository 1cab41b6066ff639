"""What every transport promises, checked on this machine and over real SSH alike."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from edgedeploy.errors import CommandFailed, TransferError, TransportTimeout
from edgedeploy.transport import Transport

FLOOD = """
import sys, threading
block = b"x" * (10 << 20)
other = threading.Thread(target=lambda: sys.stderr.buffer.write(block))
other.start()
sys.stdout.buffer.write(block)
other.join()
"""


def test_runs_and_keeps_the_streams_apart(board: Transport) -> None:
    done = board.run(["sh", "-c", "echo out; echo err >&2"], timeout_s=20)
    assert (done.exit_code, done.stdout, done.stderr) == (0, b"out\n", b"err\n")


def test_exit_code_is_told_or_raised(board: Transport) -> None:
    assert board.run(["sh", "-c", "exit 7"], timeout_s=20, check=False).exit_code == 7
    with pytest.raises(CommandFailed, match=r"^board: `sh` failed with exit code 7: no such luck$") as caught:
        board.run(["sh", "-c", "echo no such luck >&2; exit 7"], timeout_s=20)
    assert caught.value.command_exit_code == 7
    assert caught.value.argv == ("sh", "-c", "echo no such luck >&2; exit 7")


def test_missing_program_is_a_finding_not_a_broken_link(board: Transport) -> None:
    assert board.run(["/no/such/program"], timeout_s=20, check=False).exit_code == 127


@pytest.mark.fault
def test_killed_command_does_not_look_well(board: Transport) -> None:
    """A command that a signal killed is never taken for one that succeeded."""
    done = board.run(["sh", "-c", "kill -KILL $$"], timeout_s=20, check=False)
    assert done.exit_code in (137, -1)
    with pytest.raises(CommandFailed):
        board.run(["sh", "-c", "kill -KILL $$"], timeout_s=20)


@pytest.mark.parametrize("size", [0, 5, 3 << 20])
def test_standard_input_arrives_whole(board: Transport, size: int) -> None:
    data = os.urandom(size)
    assert board.run(["cat"], timeout_s=30, stdin=data).stdout == data


def test_without_input_a_command_sees_its_end_at_once(board: Transport) -> None:
    assert board.run(["cat"], timeout_s=10).stdout == b""


def test_input_that_nobody_reads_is_no_error(board: Transport) -> None:
    assert board.run(["true"], timeout_s=30, stdin=bytes(3 << 20)).exit_code == 0


@pytest.mark.fault
def test_much_on_both_streams_does_not_deadlock(board: Transport) -> None:
    """A command that writes 10 MiB to each stream at once is read to its end."""
    done = board.run([sys.executable, "-c", FLOOD], timeout_s=60)
    assert (len(done.stdout), len(done.stderr)) == (10 << 20, 10 << 20)


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "-n",
        "two words",
        "it's",
        '"quoted"',
        "$HOME `id` $(id)",
        "a\nb\n",
        "tab\t*?[x] ~ # ; & | < > \\",
        "Zürich ✓",
    ],
)
def test_arguments_arrive_as_they_are(board: Transport, argument: str) -> None:
    echo = "import os, sys; sys.stdout.buffer.write(os.fsencode(sys.argv[1]))"
    assert board.run([sys.executable, "-c", echo, argument], timeout_s=20).stdout == argument.encode()


@pytest.mark.fault
def test_deadline_ends_a_command(board: Transport) -> None:
    """A command that never ends is given up at its deadline, and the link serves the next one."""
    started = time.monotonic()
    with pytest.raises(TransportTimeout, match=r"^board: `sleep` did not end within 0\.5 s"):
        board.run(["sleep", "30"], timeout_s=0.5)
    assert time.monotonic() - started < 5
    assert board.run(["echo", "still here"], timeout_s=20).stdout == b"still here\n"


def test_tethered_command_keeps_its_input_open(board: Transport) -> None:
    wait = "import select, sys; print(bool(select.select([sys.stdin], [], [], 0.3)[0]))"
    assert board.run([sys.executable, "-c", wait], timeout_s=20, tethered=True).stdout == b"False\n"
    assert board.run([sys.executable, "-c", wait], timeout_s=20).stdout == b"True\n"


def test_tethered_command_has_no_input_of_its_own(board: Transport) -> None:
    with pytest.raises(ValueError, match="tethered"):
        board.run(["cat"], timeout_s=20, stdin=b"x", tethered=True)


def test_tethered_command_learns_that_it_was_given_up(board: Transport, remote: Path) -> None:
    note = remote / "note"
    script = f"import sys; sys.stdin.read(); open({str(note)!r}, 'w').close()"
    with pytest.raises(TransportTimeout):
        board.run(
            ["sh", "-c", 'trap "" HUP TERM; exec "$@"', "sh", sys.executable, "-c", script], timeout_s=1, tethered=True
        )
    deadline = time.monotonic() + 10
    # on this machine it was killed instead, which is as good, and a phone from before Android 7 tells nobody
    while tells_commands(board) and not note.exists():
        assert time.monotonic() < deadline, "nobody told the command"
        time.sleep(0.05)


def tells_commands(board: Transport) -> bool:
    return type(board).__name__ != "LocalTransport" and not getattr(board, "_legacy", False)


@pytest.mark.parametrize("size", [0, 1, 32_768, (3 << 20) + 17])
def test_put_and_get_return_the_same_bytes(board: Transport, remote: Path, tmp_path: Path, size: int) -> None:
    source, back, steps = tmp_path / "source", tmp_path / "back", list[int]()
    source.write_bytes(os.urandom(size))
    board.put(source, str(remote / "it's there"), timeout_s=30, progress=steps.append)
    assert (remote / "it's there").read_bytes() == source.read_bytes()
    assert sum(steps) == size
    board.get(str(remote / "it's there"), back, timeout_s=30, max_bytes=max(size, 1))
    assert back.read_bytes() == source.read_bytes()


def test_put_replaces_what_was_longer(board: Transport, remote: Path, tmp_path: Path) -> None:
    (remote / "old").write_bytes(bytes(100_000))
    (tmp_path / "new").write_bytes(b"new")
    board.put(tmp_path / "new", str(remote / "old"), timeout_s=30)
    assert (remote / "old").read_bytes() == b"new"


def test_put_into_a_missing_folder_says_where(board: Transport, remote: Path, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x")
    with pytest.raises(TransferError, match=r"^board: .*/missing/file.*No such file"):
        board.put(tmp_path / "source", str(remote / "missing" / "file"), timeout_s=30)


def test_get_of_a_missing_file_leaves_none(board: Transport, remote: Path, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match=r"^board: .*absent.*No such file"):
        board.get(str(remote / "absent"), tmp_path / "back", timeout_s=30, max_bytes=10)
    assert not (tmp_path / "back").exists()


def test_get_refuses_more_than_was_asked_for(board: Transport, remote: Path, tmp_path: Path) -> None:
    (remote / "large").write_bytes(bytes(1_000_001))
    with pytest.raises(TransferError, match="longer than 1000000 bytes"):
        board.get(str(remote / "large"), tmp_path / "back", timeout_s=30, max_bytes=1_000_000)
    assert not (tmp_path / "back").exists()


@pytest.mark.fault
def test_get_of_an_endless_file_ends(board: Transport, tmp_path: Path) -> None:
    """A file without end is refused, and no part of it stays here."""
    with pytest.raises(TransferError):
        board.get("/dev/zero", tmp_path / "back", timeout_s=30, max_bytes=100_000)
    assert not (tmp_path / "back").exists()


@pytest.mark.fault
def test_ctrl_c_stops_a_command_and_frees_the_board(board: Transport) -> None:
    """Ctrl-C ends a command soon, and the link serves the next one."""
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        board.run(["sleep", "30"], timeout_s=30)
    assert time.monotonic() - started < 5
    assert board.run(["echo", "again"], timeout_s=20).stdout == b"again\n"


@pytest.mark.fault
def test_ctrl_c_stops_a_transfer(board: Transport, remote: Path, tmp_path: Path) -> None:
    """Ctrl-C ends a transfer, and the link serves the next command."""
    (tmp_path / "source").write_bytes(bytes(8 << 20))

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        board.put(tmp_path / "source", str(remote / "part"), timeout_s=30, progress=interrupt)
    assert board.run(["echo", "again"], timeout_s=20).stdout == b"again\n"
