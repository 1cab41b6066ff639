from __future__ import annotations

import json
import os
import signal
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.board import open_board
from edgedeploy.board.bundle import agent_bundle
from edgedeploy.errors import AgentError, BoardError, EdgeDeployError, LeaseError, TransferError
from edgedeploy.on_device.reply import find_frame, frame
from edgedeploy.records import Device, DeviceProfile
from edgedeploy.transport import Completed, Transport
from tests.support.at_once import at_once

EMPTY = {"op": "inventory", "objects": dict[str, int]()}


def tidy(root: Path) -> bool:
    return not list((root / "tmp").iterdir())


def test_agent_is_installed_once_and_does_its_job(device: Device, profile: DeviceProfile, root: Path) -> None:
    content, digest = agent_bundle()
    agent = root / "agents" / f"{digest}.pyz"
    with open_board(device, profile, Path()) as board:
        assert (board.root, Path(board.python).is_absolute()) == (str(root), True)
        report = board.run_job([EMPTY, {"op": "facts"}], timeout_s=120)
        assert board.result(report, 0)["present"] == []
        assert board.result(report, 1)["facts"]["machine"] == board.facts.machine
    assert agent.read_bytes() == content
    assert tidy(root)
    written = agent.stat().st_mtime_ns
    with open_board(device, profile, Path()) as board:
        board.run_job([EMPTY], timeout_s=60)
    assert agent.stat().st_mtime_ns == written


def test_spoilt_agent_is_replaced(device: Device, profile: DeviceProfile, root: Path) -> None:
    content, digest = agent_bundle()
    agent = root / "agents" / f"{digest}.pyz"
    agent.parent.mkdir(parents=True)
    agent.write_bytes(content[:1000])
    with open_board(device, profile, Path()) as board:
        board.run_job([EMPTY], timeout_s=60)
    assert agent.read_bytes() == content


def flipped(sent: bytes) -> bytes:
    return sent[:5000] + bytes([sent[5000] ^ 1]) + sent[5001:]


def another(sent: bytes) -> bytes:
    content = zlib.decompress(sent)
    return zlib.compress(content.replace(b"Start the agent", b"Start an agent "))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda sent: sent[:30_000], "sha256 is"),
        (lambda _: b"", "sha256 is"),
        (flipped, "decompressing|sha256 is"),
        (another, "sha256 is"),
        (lambda _: zlib.compress(bytes(1 << 30)), "sha256 is"),
        (lambda _: agent_bundle()[0], "decompressing"),
    ],
    ids=["cut short", "empty", "flipped", "another", "endless", "not packed"],
)
def test_agent_that_changed_on_the_way_is_not_installed(
    over_ssh: Device,
    profile: DeviceProfile,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[bytes], bytes],
    complaint: str,
) -> None:
    """An agent whose bytes changed on the way does not run and leaves nothing; the next job brings a whole one."""
    with open_board(over_ssh, profile, Path()) as board:
        real_put = board.transport.put

        def put(source: Path, destination: str, **limits: Any) -> None:
            spoilt = root.parent / "spoilt"
            spoilt.write_bytes(spoil(source.read_bytes()))
            real_put(spoilt, destination, **limits)

        monkeypatch.setattr(board.transport, "put", put)
        with pytest.raises(TransferError, match=rf"the agent could not be put on the board: .*({complaint})"):
            board.run_job([EMPTY], timeout_s=60)
        assert not list((root / "agents").iterdir())
        assert tidy(root)
        monkeypatch.undo()
        assert board.result(board.run_job([EMPTY], timeout_s=60), 0)["present"] == []
    assert tidy(root)


@pytest.mark.fault
def test_agent_that_cannot_get_its_name(device: Device, profile: DeviceProfile, root: Path) -> None:
    """What keeps the board from installing the agent is said in the board's words, and nothing is left."""
    with open_board(device, profile, Path()) as board:
        (root / "agents" / f"{agent_bundle()[1]}.pyz" / "folder").mkdir(parents=True)
        with pytest.raises(TransferError, match=r"the agent could not be put on the board: .*directory"):
            board.run_job([EMPTY], timeout_s=60)
    assert tidy(root)


@pytest.mark.fault
def test_two_hosts_install_the_agent_at_once(device: Device, profile: DeviceProfile, root: Path) -> None:
    """Two hosts that bring the agent at the same time both get their report, and one whole agent lies there."""
    both = threading.Barrier(2)
    outcomes: list[object] = []

    def one() -> None:
        with open_board(device, profile, Path()) as board:
            real_put = board.transport.put

            def put(*arguments: Any, **limits: Any) -> None:
                real_put(*arguments, **limits)
                both.wait(30)  # now each has its own copy there and neither has its name

            board.transport.put = put  # type: ignore[method-assign]
            try:
                outcomes.append(board.result(board.run_job([EMPTY], timeout_s=60), 0)["present"])
            except EdgeDeployError as error:
                outcomes.append(error)

    at_once(one, one)
    assert outcomes == [[], []]
    content, digest = agent_bundle()
    assert [path.name for path in (root / "agents").iterdir()] == [f"{digest}.pyz"]
    assert (root / "agents" / f"{digest}.pyz").read_bytes() == content
    assert tidy(root)


def test_agent_killed_midway(device: Device, profile: DeviceProfile, root: Path) -> None:
    with open_board(device, profile, Path()) as board:
        killer = threading.Thread(target=kill_agent, args=(str(root),))
        killer.start()
        with pytest.raises(AgentError, match=r"the agent left no report: it was killed"):
            board.run_job([{"op": "inventory", "objects": large_object(root)}], timeout_s=60)
        killer.join()
        assert board.result(board.run_job([EMPTY], timeout_s=60), 0)["present"] == []
    assert tidy(root)


def large_object(root: Path) -> dict[str, int]:
    """A large object, so that the agent is busy hashing it until it is killed."""
    sha256 = "0" * 64
    large = root / "objects" / "sha256" / sha256
    with large.open("wb") as file:
        file.truncate(20 << 30)
    return {sha256: 20 << 30}


def kill_agent(root: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                argv = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"--reply" in argv and b"python" in argv[0] and any(f"{root}/agents/".encode() in word for word in argv):
                os.kill(int(folder.name), signal.SIGKILL)
                return
        time.sleep(0.02)
    raise AssertionError("the agent never ran")


def test_operation_that_cannot_be_done_is_a_result(device: Device, profile: DeviceProfile, root: Path) -> None:
    entry = {"temporary": "tmp/absent", "sha256": "1" * 64, "size_bytes": 1}
    with open_board(device, profile, Path()) as board:
        (root / "lock").mkdir()
        report = board.run_job([{"op": "admit", "objects": [entry]}, {"op": "nonsense"}, EMPTY], timeout_s=60)
        with pytest.raises(BoardError, match=r"the board could not do `admit`: .*lock"):
            board.result(report, 0)
        with pytest.raises(BoardError, match="could not do `nonsense`"):
            board.result(report, 1)
        assert board.result(report, 2)["present"] == []


def test_held_board_is_a_lease_error(device: Device, profile: DeviceProfile, root: Path) -> None:
    import fcntl

    with open_board(device, profile, Path()) as board, (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        report = board.run_job([{"op": "admit", "objects": []}], timeout_s=60)
        with pytest.raises(LeaseError, match=r"another job holds the board: .*try again"):
            board.result(report, 0)


class Spoiling:
    """A transport to a board that lies: what the agent says is changed, and framed as the agent would."""

    def __init__(self, transport: Transport, change: bytes | Mapping[str, object], *, reframe: bool = True) -> None:
        self._transport, self._change, self._reframe = transport, change, reframe

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def run(self, argv: Sequence[str], **limits: Any) -> Completed:
        done = self._transport.run(argv, **limits)
        if "--reply" not in argv:
            return done
        token = argv[argv.index("--reply") + 1]
        change = self._change
        if not self._reframe:
            assert isinstance(change, bytes)
            return replace(done, stdout=change.replace(b"TOKEN", token.encode()))
        if not isinstance(change, bytes):
            change = json.dumps({**json.loads(find_frame(done.stdout, token, 1 << 20)), **change}).encode()
        return replace(done, stdout=done.stdout.partition(b"\nedgedeploy-report")[0] + frame(change, token))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (b"", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[]", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b'{"schema": ' + b"9" * 10_000 + b"}", "cannot be read"),
        ({"schema": 99}, "cannot be read: report.schema"),
        ({"results": []}, r"was asked for \['inventory'\] but its report answers \[\]"),
        ({"results": [{"op": "inventory", "present": ["../../etc/passwd"]}]}, "must be a SHA-256|lacks"),
        (
            {"results": [{"op": "inventory", "present": [], "partial": {}, "free_bytes": 1 << 80, "total_bytes": 1}]},
            "free",
        ),
        ({"results": [{"op": "x" * 5000}]}, "cannot be read"),
        ({"agent_sha256": "0" * 64}, "another agent answered"),
        ({"agent_sha256": "\x1b]0;owned\x07"}, "cannot be read"),
    ],
)
def test_report_that_cannot_be_used(
    root: Path, profile: DeviceProfile, change: bytes | Mapping[str, object], complaint: str
) -> None:
    """A board that lies in its report is an AgentError of one printable sentence, whatever it says."""
    with open_board(Device("local-board", "here", "local:", root=str(root)), profile, Path()) as board:
        board.transport = Spoiling(board.transport, change)
        with pytest.raises(AgentError, match=f"^local-board: .*({complaint})") as caught:
            board.run_job([EMPTY], timeout_s=60)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


GOOD = frame(b"{}", "TOKEN")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        (b"", "there is none"),
        (GOOD.replace(b"TOKEN", b"another"), "there is none"),
        (GOOD[:-1], "it is cut short"),
        (GOOD.replace(b"\n", b"")[:60] + b"\n", "there is none"),
        (b"\nedgedeploy-report TOKEN " + b"0" * 64 + GOOD[GOOD.rindex(b" ") :], "it changed on the way"),
        (GOOD[: GOOD.rindex(b" ") + 1] + b"AAAA\n", "it cannot be unpacked"),
        (frame(bytes(300 << 20), "TOKEN"), "longer than 268435456 bytes"),
    ],
)
def test_frame_that_cannot_be_used(root: Path, profile: DeviceProfile, output: bytes, complaint: str) -> None:
    """A report that is absent, of another job, cut short, changed or far too large is an AgentError that says so."""
    with open_board(Device("local-board", "here", "local:", root=str(root)), profile, Path()) as board:
        board.transport = Spoiling(board.transport, output, reframe=False)
        with pytest.raises(AgentError, match=f"^local-board: the agent's report cannot be read: .*{complaint}"):
            board.run_job([EMPTY], timeout_s=60)


@pytest.mark.fault
def test_control_characters_of_a_board_do_not_reach_the_terminal(root: Path, profile: DeviceProfile) -> None:
    """Escape sequences in an error that a board reports arrive as replacement characters."""
    error = {"op": "inventory", "error": {"kind": "io", "message": "\x1b[2J\x07\u202egone"}}
    with open_board(Device("local-board", "here", "local:", root=str(root)), profile, Path()) as board:
        board.transport = Spoiling(board.transport, {"results": [error]})
        report = board.run_job([EMPTY], timeout_s=60)
        with pytest.raises(BoardError, match="gone") as caught:
            board.result(report, 0)
    assert str(caught.value).isprintable()


@pytest.mark.fault
def test_litter_on_standard_output_does_not_hide_the_report(root: Path, profile: DeviceProfile) -> None:
    """A login banner before the report and what libraries write after it are passed over."""
    with open_board(Device("local-board", "here", "local:", root=str(root)), profile, Path()) as board:
        report = board.run_job([EMPTY], timeout_s=60)
        litter = b"Welcome!\nedgedeploy-report of yesterday\n\x00\xff" + frame(json.dumps(report).encode(), "TOKEN")
        board.transport = Spoiling(board.transport, litter + b"INFO: freed\n", reframe=False)
        assert board.run_job([EMPTY], timeout_s=60)["results"] == report["results"]


def test_job_takes_few_round_trips(device: Device, profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    many = {"op": "inventory", "objects": {f"{number:064x}": number for number in range(4000)}}
    with open_board(device, profile, Path()) as board:
        transport = type(board.transport)
        for name in ("run", "put", "get"):
            monkeypatch.setattr(transport, name, counted(calls, name, getattr(transport, name)))
        board.run_job([EMPTY], timeout_s=60)
        assert calls == ["put", "run"], "the first job brings the agent"
        calls.clear()
        board.run_job([EMPTY], timeout_s=60)
        assert calls == ["run"]
        calls.clear()
        monkeypatch.setattr("edgedeploy.board.session.MAX_INLINE_BYTES", 10_000)
        board.run_job([many], timeout_s=60)
    assert calls == ["put", "run", "run"], "a large job is a file, which is removed again"
    assert tidy(Path(device.root))


def counted(calls: list[str], name: str, real: Any) -> Any:
    def call(*arguments: Any, **options: Any) -> Completed | None:
        calls.append(name)
        result: Completed | None = real(*arguments, **options)
        return result

    return call
