"""Does one thing on many boards at once, so that a dead board delays nobody."""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from edgedeploy.errors import EdgeDeployError, ExitCode
from edgedeploy.records import Device
from edgedeploy.transport.interruption import interrupt_on
from edgedeploy.transport.turns import gave_way, give_way_by

T = TypeVar("T")

WORKERS = 16  # more make the handshakes of SSH slower, not faster

# How long visits that are given up may take to clear away what they left on their boards.
STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class Visited(Generic[T]):
    """What came of the action on one device: a value, or the error that says why there is none.

    `passed_over` says why the device was left alone, which is no failure; "" where it was visited.
    """

    device: str
    value: T | None
    error: EdgeDeployError | None
    passed_over: str = ""


def worst_exit_code(visits: Iterable[Visited[Any]]) -> ExitCode:
    """What visits come to for whoever called: what a retry cannot mend outweighs what it may; done without errors."""
    return max((visited.error.exit_code for visited in visits if visited.error is not None), default=ExitCode.DONE)


def run_over(
    devices: Sequence[Device], action: Callable[[Device], T], *, workers: int | None = None
) -> list[Visited[T]]:
    """Do `action` on every device, at most `workers` (16) at a time, and return what came of it in the order given.

    Devices that share a host are visited one after the other. A visit that waits for its board to answer does not count
    among the `workers`. An EdgeDeployError belongs to its device; any other
    exception is a bug and is raised as soon as it happens, as KeyboardInterrupt is: visits under way are then given
    up, and none is begun.
    """
    waiting: queue.SimpleQueue[list[tuple[int, Device]]] = queue.SimpleQueue()
    groups = _groups(devices)
    for group in groups:
        waiting.put(group)
    finished: queue.SimpleQueue[tuple[int, Visited[T] | BaseException]] = queue.SimpleQueue()
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def begin() -> None:
        if not (stop.is_set() or waiting.empty()):
            arguments = (waiting, finished, action, stop, begin)
            thread = threading.Thread(target=_work, args=arguments, name=f"visit-{len(threads)}", daemon=True)
            thread.start()
            threads.append(thread)

    for _ in range(min(workers or WORKERS, len(groups))):
        begin()
    results: dict[int, Visited[T]] = {}
    try:
        while len(results) < len(devices):
            index, outcome = finished.get()
            if isinstance(outcome, BaseException):
                raise outcome
            results[index] = outcome
    finally:
        stop.set()
        deadline = time.monotonic() + STOP_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
    return [results[index] for index in range(len(devices))]


def _work(
    waiting: queue.SimpleQueue[list[tuple[int, Device]]],
    finished: queue.SimpleQueue[tuple[int, Visited[T] | BaseException]],
    action: Callable[[Device], T],
    stop: threading.Event,
    begin_another: Callable[[], None],
) -> None:
    interrupt_on(stop)
    give_way_by(begin_another)
    while not stop.is_set():
        try:
            group = waiting.get_nowait()
        except queue.Empty:
            return
        for index, device in group:
            if stop.is_set():
                return
            try:
                finished.put((index, Visited(device.name, action(device), None)))
            except EdgeDeployError as error:
                finished.put((index, Visited(device.name, None, error)))
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
                finished.put((index, error))
                return
        if gave_way():
            return  # another has this one's place


def _groups(devices: Iterable[Device]) -> list[list[tuple[int, Device]]]:
    groups: dict[str, list[tuple[int, Device]]] = defaultdict(list)
    for index, device in enumerate(devices):
        # the index keeps a device that shares nothing apart from any name
        groups[f"shares {device.shares}" if device.shares else f"alone {index}"].append((index, device))
    return list(groups.values())
