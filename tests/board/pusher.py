"""Pushes files in a process of its own, which may be killed at any step: `python -m tests.board.pusher JSON`."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgedeploy.board import open_board, push
from edgedeploy.errors import EdgeDeployError
from edgedeploy.records import Device, DeviceProfile
from edgedeploy.transport import Transport

HERE = DeviceProfile("here", "this machine", platform.machine(), (), (), 1 << 30, (), ("local", "ssh"))


class Mortal:
    """A transport that kills its process at one of its calls: before it, in its middle or after it."""

    def __init__(self, transport: Transport, fatal_call: int, when: str) -> None:
        self._transport, self._fatal, self._when, self._calls = transport, fatal_call, when, 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._transport, name)
        return found if name not in ("run", "put") else lambda *given, **limits: self._call(found, *given, **limits)

    def _call(self, call: Callable[..., Any], *given: Any, **limits: Any) -> Any:
        fatal = self._calls == self._fatal
        self._calls += 1
        if fatal and self._when == "before":
            die()
        if fatal and self._when == "amid":
            limits["progress"] = lambda _: die()
        result = call(*given, **limits)
        if fatal and self._when == "after":
            die()
        return result


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(order: dict[str, Any]) -> int:
    """Push as `order` says; print what came of it as JSON."""
    if mount := order.get("small_disk_at"):
        Path(mount).mkdir(parents=True, exist_ok=True)
        size = f"size={order['disk_bytes']}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", mount], check=True)
    artifacts = {sha256: Path(path) for sha256, path in order["artifacts"].items()}
    outcome: dict[str, Any] = {}
    try:
        with open_board(Device(**order["device"]), HERE, Path()) as board:
            board.transport = Mortal(board.transport, order.get("fatal_call", -1), order.get("when", "after"))

            def progress(sent: int, total: int) -> None:
                if order.get("fill_disk") and not Path(board.path("filling")).exists():
                    fill(board.path("filling"))

            outcome["sent"] = push(board, artifacts, progress=progress, reserve_bytes=order.get("reserve_bytes")).sent
    except EdgeDeployError as error:
        outcome["error"] = f"{type(error).__name__}: {error}"
    root = Path(order["device"]["root"])
    outcome["objects"] = sorted(path.name for path in root.glob("objects/sha256/*"))
    outcome["left"] = sorted(path.name for path in root.glob("tmp/*"))
    sys.stdout.write(json.dumps(outcome))
    return 0


def fill(path: str) -> None:
    """Leave no byte free on the disk."""
    with Path(path).open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
