"""What the bench `fleet` has edgedeploy do, in a process of its own: `python -m tools.bench.fleet_job JSON`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edgedeploy.board import open_board, push
from edgedeploy.lab import run_over
from edgedeploy.plan import load_profiles
from edgedeploy.records import Device


def main(order: dict[str, str]) -> int:
    """Push one file to every board and have each say what it is; 1 where one of them failed."""
    source, sha256 = Path(order["source"]), order["sha256"]
    boards = json.loads(Path(order["boards"]).read_text())
    devices = [
        Device(alias, "x86-64", f"ssh://{alias}", root=root, ssh_config=order["ssh_config"])
        for alias, root in boards.items()
    ]
    kind = load_profiles()["x86-64"]

    def action(device: Device) -> str:
        with open_board(device, kind, Path()) as board:
            push(board, {sha256: source})
            return board.facts.machine

    visits = run_over(devices, action, workers=int(order["jobs"]))
    for visited in visits:
        if visited.error is not None:
            print(visited.error, file=sys.stderr)
    return 0 if all(visited.value for visited in visits) else 1


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
