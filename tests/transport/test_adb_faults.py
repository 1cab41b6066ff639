"""What goes wrong with phones ends in the right error, soon, and with a sentence that helps."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from edgedeploy.errors import (
    AuthError,
    CommandFailed,
    ConnectError,
    TransferError,
    TransportError,
    TransportTimeout,
)
from edgedeploy.transport.adb import AdbTransport
from tests.odd_adb import distrustful_adbd, listens, listing_server, silent_adbd
from tests.phones import PHONE_KINDS, a_phone, transport_to_phone
from tests.support.deadlines import soon
from tools.adbd import Phone
from tools.loopback_ssh import free_port

pytestmark = pytest.mark.fault

PIXEL = "usb:{port} product:shiba model:Pixel_8 device:shiba transport_id:{id}"


@pytest.fixture
def own_phone() -> Iterator[Phone]:
    """A phone that a test may break."""
    with a_phone() as phone:
        yield phone


@pytest.fixture
def home(tmp_path: Path) -> Mapping[str, str]:
    """The environment of an adb that has its keys, and keeps its logs, in a folder of its own."""
    (tmp_path / "home").mkdir()
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)}


def opened(wanted: str, port: int, environment: Mapping[str, str], ready_s: float = 1.5) -> AdbTransport:
    return AdbTransport("board", wanted, port, environment=environment, ready_s=ready_s)


def test_unauthorised_phone_says_to_unlock_it_and_leaves_no_server(home: Mapping[str, str]) -> None:
    """A phone that does not trust the computer is an AuthError, and the adb server started for it is ended."""
    server = free_port()
    with (
        distrustful_adbd() as port,
        soon(25),
        pytest.raises(AuthError, match=rf"^board: the phone 127\.0\.0\.1:{port} does not trust .*unlock it and accept"),
        opened(f"127.0.0.1:{port}", server, home),
    ):
        pass
    assert not listens(server)


def test_silent_phone_is_offline(home: Mapping[str, str]) -> None:
    """A phone that takes the connection and says nothing is a ConnectError within the deadline."""
    server = free_port()
    with (
        silent_adbd() as port,
        soon(40),
        pytest.raises(ConnectError, match=r"^board: (the phone .*offline|nobody answers adb at)"),
        opened(f"127.0.0.1:{port}", server, home),
    ):
        pass
    assert not listens(server)


def test_nobody_answers_at_the_address(home: Mapping[str, str]) -> None:
    """An address at which nobody listens is a ConnectError that repeats adb's reason."""
    server, port = free_port(), free_port()
    with (
        soon(25),
        pytest.raises(ConnectError, match=rf"nobody answers adb at 127\.0\.0\.1:{port} \(.*refused.*`adb tcpip"),
        opened(f"127.0.0.1:{port}", server, home),
    ):
        pass
    assert not listens(server)


@pytest.mark.parametrize(
    ("listed", "wanted", "error", "complaint"),
    [
        (
            (
                "38DD no permissions (missing udev rules? user is in the plugdev group); "
                "see [http://developer.android.com] usb:1-2 transport_id:1\n"
            ),
            "38DD",
            AuthError,
            "may not open the USB device of the phone 38DD: install Android's udev rules",
        ),
        (
            f"38DD device {PIXEL.format(port='1-2', id=1)}\n91AX device {PIXEL.format(port='1-4', id=2)}\n",
            "model:Pixel_8",
            ConnectError,
            r"'model:Pixel_8' is 2 phones: 38DD \(device, usb:1-2.*91AX .*name one in fleet.toml",
        ),
        (
            "".join(f"0123456789ABCDEF device {PIXEL.format(port=f'1-{i}', id=i)}\n" for i in (2, 4)),
            "0123456789ABCDEF",
            ConnectError,
            r"is 2 phones: .*usb:1-2.*usb:1-4.* as adb://usb:1-4",
        ),
        ("38DD offline usb:1-2 transport_id:1\n", "38DD", ConnectError, r"does not answer \(offline\): plug it in"),
        ("38DD unauthorized usb:1-2 transport_id:1\n", "38DD", AuthError, "does not trust this computer"),
        ("38DD recovery usb:1-2 transport_id:1\n", "38DD", ConnectError, "is in its recovery, not in Android"),
        (
            "38DD device usb:1-2\n",
            "77XX",
            ConnectError,
            r"does not see '77XX'; it sees 38DD \(device, usb:1-2\): check",
        ),
        ("", "77XX", ConnectError, "does not see '77XX' and sees no other: check the cable"),
    ],
    ids=["no-permissions", "two-models", "two-serials", "offline", "unauthorised", "recovery", "other", "none"],
)
def test_phone_that_cannot_be_used_has_a_sentence_of_its_own(
    home: Mapping[str, str], listed: str, wanted: str, error: type[TransportError], complaint: str
) -> None:
    """Every state in which adb lists a phone, and none at all, has its own error; a real adb reads the list."""
    with (
        listing_server(listed) as server,
        soon(15),
        pytest.raises(error, match=f"^board: .*{complaint}"),
        opened(wanted, server, home),
    ):
        pass


def test_one_of_two_phones_with_one_serial_is_named_by_its_port(home: Mapping[str, str]) -> None:
    """Of two phones with one serial, the one at the USB port that is named is talked to, by that port and no other."""
    two = "".join(f"0123 device {PIXEL.format(port=f'1-{i}', id=i)}\n" for i in (2, 4))
    with (
        listing_server(two, {b"host-serial:usb:1-4:features": b"shell_v2,cmd"}) as server,
        soon(15),
        opened("usb:1-4", server, home),
    ):
        pass
    with (
        listing_server(
            two, {b"host-serial:usb:1-2:features": b"shell_v2", b"host-serial:0123:features": b""}
        ) as server,
        soon(15),
        pytest.raises(ConnectError, match=r"^board: the phone does not say what it can do"),
        opened("usb:1-4", server, home),
    ):
        pass


def test_without_adb_it_says_how_to_get_it(tmp_path: Path) -> None:
    """A machine without adb is told so before anything is tried."""
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    with pytest.raises(ConnectError, match=r"^board: .*none on the PATH: install it"), opened("X", 1, environment):
        pass


@pytest.mark.parametrize(
    ("program", "error", "complaint"),
    [
        ("echo 'error: it is broken'; exit 1", ConnectError, "server cannot be started .*: error: it is broken"),
        ("exec sleep 60", TransportTimeout, r"`adb start-server` did not end within 0\.5 s"),
    ],
    ids=["fails", "hangs"],
)
def test_adb_that_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, error: type[TransportError], complaint: str
) -> None:
    """An adb that fails or hangs is ended and reported, not waited for."""
    adb = tmp_path / "adb"
    adb.write_text(f"#!/bin/sh\n{program}\n")
    adb.chmod(0o755)
    monkeypatch.setattr("edgedeploy.transport.adb_server.START_S", 0.5)
    environment = {"PATH": f"{tmp_path}:{os.defpath}", "HOME": str(tmp_path)}
    with soon(10), pytest.raises(error, match=f"^board: .*{complaint}"), opened("X", free_port(), environment):
        pass


@pytest.mark.parametrize("kind", PHONE_KINDS)
def test_phone_is_unplugged_while_a_command_runs(own_phone: Phone, kind: str) -> None:
    """adbd killed under a command ends it in ConnectError at once, and after it came back all works again."""
    with transport_to_phone(own_phone, kind) as board:
        threading.Timer(0.5, own_phone.kill_adbd).start()
        with soon(15), pytest.raises((ConnectError, AuthError), match=r"^board: the link was lost during `sleep`"):
            board.run(["sleep", "60"], timeout_s=60)
    own_phone.start_adbd()
    own_phone.wait()
    with transport_to_phone(own_phone, kind) as board:
        assert board.run(["echo", "again"], timeout_s=10).stdout == b"again\n"


@pytest.mark.parametrize("what", ["adbd", "server"])
def test_link_dies_while_a_file_is_copied(
    own_phone: Phone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """adbd or the adb server killed under a copy is an error soon, starts no server, and the copy can be done again."""
    source, destination = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(os.urandom(64 << 20))
    monkeypatch.setattr("edgedeploy.transport.adb.CHUNK_BYTES", 4096)  # slow enough to be broken midway
    killed = threading.Event()

    def kill(_: int) -> None:
        if not killed.is_set():
            killed.set()
            own_phone.kill_adbd() if what == "adbd" else own_phone.kill_server()

    with transport_to_phone(own_phone) as board:
        with soon(20), pytest.raises(TransportError, match=r"^board: "):
            board.put(source, str(destination), timeout_s=60, progress=kill)
        assert killed.is_set()
        if what == "server":
            with pytest.raises(ConnectError, match=r"the adb server at .* has ended"):
                board.run(["true"], timeout_s=10)
            assert not (own_phone.folder / "adb").exists(), "another server was started"
    if what == "adbd":
        own_phone.start_adbd()
    else:
        own_phone.start_server()
    own_phone.wait()
    with transport_to_phone(own_phone) as board:
        board.put(source, str(destination), timeout_s=60)
    assert destination.read_bytes() == source.read_bytes()


def test_phone_that_went_silent_is_not_waited_for_again(own_phone: Phone, tmp_path: Path) -> None:
    """A phone that hangs is given up, clearing up behind that takes seconds, and it serves again once it is back."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(64 << 20))
    stopped = threading.Event()

    def stop(_: int) -> None:
        if not stopped.is_set():
            stopped.set()
            own_phone.hang_adbd("adbd")

    with transport_to_phone(own_phone, silence_s=2.0) as board:
        with soon(20), pytest.raises(TransportTimeout, match=r"nothing moved for 2 s"):
            board.put(source, str(tmp_path / "copy"), timeout_s=60, progress=stop)
        with soon(15), pytest.raises(TransportTimeout, match=r"did not end within 5 s"):
            board.run(["rm", "-f", str(tmp_path / "copy")], timeout_s=60)
        own_phone.wake_adbd("adbd")
        assert board.run(["echo", "back"], timeout_s=30).stdout == b"back\n"
        assert board.run(["sh", "-c", "sleep 6; echo slow"], timeout_s=30).stdout == b"slow\n"


@pytest.mark.parametrize("what", ["adbd", "server"])
def test_link_dies_while_a_file_is_fetched(own_phone: Phone, tmp_path: Path, what: str) -> None:
    """adbd or the adb server killed under a fetch leaves no file behind."""
    fifo, destination = tmp_path / "fifo", tmp_path / "fetched"
    os.mkfifo(fifo)
    threading.Timer(0.5, own_phone.kill_adbd if what == "adbd" else own_phone.kill_server).start()
    feeding = threading.Thread(target=feed_a_little, args=(fifo,), daemon=True)
    feeding.start()
    with transport_to_phone(own_phone) as board, soon(20), pytest.raises(TransportError, match=r"^board: "):
        board.get(str(fifo), destination, timeout_s=60, max_bytes=1 << 20)
    assert not destination.exists()
    feeding.join(10)


def feed_a_little(fifo: Path) -> None:
    with contextlib.suppress(OSError), fifo.open("wb", buffering=0) as writer:
        for _ in range(50):
            writer.write(b"x" * 1000)
            time.sleep(0.1)


@pytest.mark.parametrize("kind", PHONE_KINDS)
def test_command_that_never_ends(phone: Phone, kind: str) -> None:
    """A command that ignores hang-ups is given up at its deadline, and the phone serves the next one."""
    with transport_to_phone(phone, kind) as board:
        with soon(8), pytest.raises(TransportTimeout, match=r"did not end within 1 s"):
            board.run(
                ["sh", "-c", 'trap "" HUP TERM; n=0; while [ $n -lt 8 ]; do sleep 1; n=$((n + 1)); done'], timeout_s=1
            )
        assert board.run(["echo", "next"], timeout_s=10).stdout == b"next\n"


@pytest.mark.parametrize("stream", ["", ">&2"])
def test_endless_output_is_given_up(phone: Phone, stream: str) -> None:
    """A phone that floods either stream fills no memory: after 64 MiB it is told off."""
    with (
        transport_to_phone(phone) as board,
        soon(60),
        pytest.raises(TransferError, match=r"^board: `sh` wrote more than 64 MiB"),
    ):
        board.run(["sh", "-c", f"exec cat /dev/zero {stream}"], timeout_s=60)


@pytest.mark.parametrize("kind", PHONE_KINDS)
def test_ten_mebibytes_on_both_streams(phone: Phone, kind: str) -> None:
    """Much on both streams at once neither blocks nor mixes them."""
    flood = 'head -c 10485760 /dev/zero >&2 & head -c 10485760 /dev/zero | tr "\\0" a; wait'
    with transport_to_phone(phone, kind) as board:
        done = board.run(["sh", "-c", flood], timeout_s=60)
    assert (done.stdout, done.stderr) == (b"a" * 10_485_760, bytes(10_485_760))


@pytest.mark.parametrize("kind", PHONE_KINDS)
@pytest.mark.parametrize("code", [0, 1, 99, 126, 127, 137, 255])
def test_exit_code_through_noise(phone: Phone, kind: str, code: int) -> None:
    """Whatever a command prints, marks like ours included, its exit code and streams come back as they are."""
    noise = "edgedeploy-end-00:0\n\nedgedeploy-end-" + "0" * 32 + ":0\n"
    script = f"printf '{noise}'; printf 'WARNING: linker: no newline' >&2; printf '\\r\\n\\377'; exit {code}"
    with transport_to_phone(phone, kind) as board:
        done = board.run(["sh", "-c", script], timeout_s=20, check=False)
    assert done.exit_code == code
    assert done.stdout == noise.encode() + b"\r\n\xff"
    assert done.stderr == b"WARNING: linker: no newline"


@pytest.mark.parametrize("kind", PHONE_KINDS)
@pytest.mark.parametrize(
    ("options", "complaint"), [("size=1m", "No space left on device"), ("ro", "Read-only file system")]
)
def test_push_to_a_file_system_that_takes_nothing(
    own_phone: Phone, tmp_path: Path, kind: str, options: str, complaint: str
) -> None:
    """A full or read-only file system is a TransferError in the phone's own words, and the phone stays usable."""
    (tmp_path / "source").write_bytes(os.urandom(3 << 20))
    (tmp_path / "disk").mkdir()
    own_phone.mount(options, tmp_path / "disk")
    with transport_to_phone(own_phone, kind) as board:
        with soon(30), pytest.raises(TransferError, match=f"^board: cannot write .*/disk/file: .*{complaint}"):
            board.put(tmp_path / "source", str(tmp_path / "disk" / "file"), timeout_s=30)
        assert board.run(["echo", "well"], timeout_s=10).stdout == b"well\n"


def test_what_a_phone_says_cannot_steer_the_terminal(phone: Phone, tmp_path: Path) -> None:
    """Control characters in a phone's last words do not reach the message."""
    with transport_to_phone(phone) as board, pytest.raises(TransferError) as caught:
        board.get("/\033[2J\007absent", tmp_path / "x", timeout_s=10, max_bytes=10)
    assert "No such file" in str(caught.value)
    assert not any(ord(each) < 32 for each in str(caught.value))


def test_command_failed_keeps_both_streams(phone: Phone) -> None:
    """A command that fails is CommandFailed with adb's own exit codes, 1 and 255, told apart from a lost link."""
    for code in (1, 255):
        with transport_to_phone(phone) as board, pytest.raises(CommandFailed) as caught:
            board.run(["sh", "-c", f"echo out; echo device offline >&2; exit {code}"], timeout_s=10)
        assert (caught.value.command_exit_code, caught.value.stdout) == (code, b"out\n")
