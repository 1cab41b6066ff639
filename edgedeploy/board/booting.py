"""Unpacks a bundle on a board that has no Python, by the Python in the bundle itself."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from edgedeploy.board.facts import BoardFacts, disk_space
from edgedeploy.board.parcels import parcels
from edgedeploy.board.push import send_parcels
from edgedeploy.board.runtime_archive import RuntimeBundle
from edgedeploy.board.session import COMMAND_TIMEOUT_S, Board
from edgedeploy.board.untrusted import printable
from edgedeploy.errors import BoardError
from edgedeploy.transport import Transport

UNPACK_TIMEOUT_S = 1200.0  # four imports on an emulated board, and an SD card's pace
# What starts Python lies twice on the board until it is done.
BOOT_BYTES = 40 << 20
_LOADERS = {"aarch64": "ld-linux-aarch64.so.1", "armv7l": "ld-linux-armhf.so.3", "x86_64": "ld-linux-x86-64.so.2"}

# There is no Python here to hold the lock: what another run left in the midst of this is given up.
_CLEAR = """
root=$1 object=$2
for left in "$root"/tmp/boot-* "$root"/tmp/runtime-*; do
  if [ -d "$left" ]; then rm -rf -- "$left"; fi
done
if [ -f "$object" ]; then echo "there=yes"; fi
echo "disk=$(df -P -k -- "$root" 2>/dev/null | tail -n 1)"
"""

# Checks, where the board can, and unpacks no more than starts Python; that Python then does it all over with care.
_BOOT = """
archive=$1 folder=$2 expected=$3
if command -v sha256sum >/dev/null 2>&1; then
  found=$(sha256sum < "$archive") || exit 1
  if [ "${found%% *}" != "$expected" ]; then echo "sha256 is ${found%% *} instead of $expected" >&2; exit 2; fi
fi
mkdir -- "$folder" && cd -- "$folder" && tar -xzf "$archive" bundle.json bin lib
"""


class Boot:
    """One run on one board; made, it has cleared away what runs before it left.

    `free_bytes` are free now, None where the board does not tell; `needed_bytes` must be, beside the unpacked files.
    """

    def __init__(self, transport: Transport, facts: BoardFacts, machine: str, bundle: RuntimeBundle) -> None:
        """Raises BoardError where the board has no tar, TransportError."""
        if not facts.system.has_tar:
            raise BoardError(
                f"{transport.board}: the board has neither a Python that can be used nor tar, so that nothing can be "
                "unpacked there; install python3 or tar on it."
            )
        root = facts.root.rstrip("/")
        self._folder = folder = f"{root}/tmp/boot-{secrets.token_hex(8)}"  # noqa: S108 - under our root
        interpreter = (f"{folder}/lib/{_LOADERS[machine]}", "--library-path", f"{folder}/lib", f"{folder}/bin/python3")
        facts = replace(facts, agent_sha256=None, bundle=None, loader=None)
        self._board, self._bundle = Board(transport, facts, interpreter[-1], interpreter), bundle
        self._object = f"{root}/objects/sha256/{bundle.sha256}"
        argv = ["sh", "-c", _CLEAR, "clear", root, self._object]
        said = transport.run(argv, timeout_s=COMMAND_TIMEOUT_S, check=False).stdout.decode("utf-8", "replace")
        # A run that was cut off after its bundle had arrived: it need not be sent again.
        self._there = "there=yes" in said.splitlines()
        disk = disk_space(next((line for line in said.splitlines() if line.startswith("disk=")), ""))
        self.free_bytes = disk[1] if disk else None
        self.needed_bytes = BOOT_BYTES + (0 if self._there else bundle.size_bytes)

    def run(self, operation: Mapping[str, Any], progress: Callable[[int, int], None] | None) -> list[dict[str, Any]]:
        """Send the bundle, have it do `operation`, and return what came of that and the board's facts.

        Raises BoardError, AgentError, LeaseError, TransportError; nothing but a whole bundle is left then.
        """
        board, bundle = self._board, self._bundle
        [parcel] = parcels({bundle.sha256: bundle.path}, {bundle.sha256: bundle.size_bytes}, {})
        archive = board.path(str(parcel.temporary))
        before: list[dict[str, Any]] = []
        try:
            if self._there:
                self._unpack(self._object)
            else:
                send_parcels(board, [parcel], progress)
                self._unpack(archive)
                before = [{"op": "admit", "objects": list(parcel.entries)}]
            operations = [*before, dict(operation), {"op": "facts"}]
            report = board.run_job(operations, timeout_s=UNPACK_TIMEOUT_S)
            return [board.result(report, place) for place in range(len(operations))][len(before) :]
        finally:
            board.remove_trees([archive, self._folder])

    def _unpack(self, archive: str) -> None:
        argv = ["sh", "-c", _BOOT, "boot", archive, self._folder, self._bundle.sha256]
        unpacked = self._board.transport.run(argv, timeout_s=UNPACK_TIMEOUT_S, check=False)
        if unpacked.exit_code != 0:
            said = printable(unpacked.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2])
            if self._there:
                self._board.remove([archive])  # so that it is sent afresh next time
            raise BoardError(
                f"{self._board.name}: the runtime that was sent cannot be unpacked there: {said}; run again."
            )
