from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from edgedeploy.errors import ConnectError
from edgedeploy.lab import Visited, run_over
from edgedeploy.records import Device
from edgedeploy.transport import open_transport
from edgedeploy.transport.address import Address
from edgedeploy.transport.ssh import SshTransport
from edgedeploy.transport.ssh_link import Deadlines


def fleet(*names: str, shares: str | None = None) -> list[Device]:
    return [Device(name, "x86-64", "local:", shares=shares) for name in names]


def test_results_come_in_the_order_of_the_devices() -> None:
    def action(device: Device) -> str:
        time.sleep({"a": 0.2, "b": 0.1, "c": 0.0}[device.name])
        return device.name.upper()

    expected = [Visited("a", "A", None), Visited("b", "B", None), Visited("c", "C", None)]
    assert run_over(fleet("a", "b", "c"), action) == expected


def test_no_devices_no_visits() -> None:
    assert run_over([], lambda device: device) == []


def test_dead_board_delays_nobody_and_is_a_result() -> None:
    others_are_done = threading.Barrier(3)

    def action(device: Device) -> int:
        others_are_done.wait(10)  # that of the dead board too: all three are under way at once
        if device.name == "dead":
            raise ConnectError(device.name, "nobody answers")
        return 1

    first, dead, last = run_over(fleet("one", "dead", "two"), action)
    assert (first.value, last.value, dead.value) == (1, 1, None)
    assert str(dead.error) == "dead: nobody answers"


def test_boards_that_share_a_host_are_never_visited_at_once() -> None:
    inside: set[str] = set()
    most = 0
    guard = threading.Lock()

    def action(device: Device) -> None:
        nonlocal most
        with guard:
            inside.add(device.name)
            most = max(most, len([name for name in inside if name.startswith("shared")]))
        time.sleep(0.05)
        with guard:
            inside.remove(device.name)

    devices = [*fleet("shared-1", "shared-2", "shared-3", shares="host"), *fleet("alone-1", "alone-2")]
    assert all(visited.error is None for visited in run_over(devices, action))
    assert most == 1


@pytest.mark.parametrize(("boards", "workers"), [(6, 2), (20, 3)])
def test_no_more_workers_than_asked_for(boards: int, workers: int) -> None:
    running, most, guard = 0, 0, threading.Lock()

    def action(_: Device) -> None:
        nonlocal running, most
        with guard:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with guard:
            running -= 1

    run_over(fleet(*(f"board-{number}" for number in range(boards))), action, workers=workers)
    assert most == workers


def test_a_bug_is_not_a_board_that_failed() -> None:
    def action(device: Device) -> int:
        return {"a": 1}[device.name]

    with pytest.raises(KeyError):
        run_over(fleet("a", "b"), action)


def test_ctrl_c_stops_every_board_promptly_and_lets_it_tidy_up(tmp_path: Path) -> None:
    started = threading.Barrier(2, lambda: threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start())

    def action(device: Device) -> None:
        with open_transport(device, tmp_path) as board:
            started.wait(10)
            try:
                board.run(["sleep", "30"], timeout_s=60)
            finally:
                board.run(["touch", str(tmp_path / device.name)], timeout_s=10)

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_over(fleet("a", "b"), action)
    assert time.monotonic() - begun < 8
    assert (tmp_path / "a").exists()
    assert (tmp_path / "b").exists()


@pytest.mark.fault
def test_boards_that_never_answer_do_not_hold_the_only_worker() -> None:
    """With one visit at a time, boards that take the connection and stay silent keep no other one waiting."""
    done: list[str] = []
    silent = Deadlines(connect_s=3, handshake_s=3, login_s=3, silence_s=3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def action(device: Device) -> None:
            try:
                if device.name.startswith("dead"):
                    with SshTransport(device.name, Address("ssh", "127.0.0.1", "x", port), None, silent):
                        pass
            finally:
                done.append(device.name)

        visits = run_over(fleet("dead-1", "dead-2", "one", "two"), action, workers=1)
    assert [visited.error is None for visited in visits] == [False, False, True, True]
    assert done[:2] == ["one", "two"]
