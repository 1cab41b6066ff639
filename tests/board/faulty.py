"""A board that is this machine, behind a link that spoils runtimes on their way or is lost at a given command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedeploy.board import provision
from edgedeploy.errors import ConnectError
from edgedeploy.transport.local import LocalTransport

if TYPE_CHECKING:
    import pytest

    from edgedeploy.transport import Completed


class Faulty(LocalTransport):
    """Sends a packed runtime without its last bytes or with a bit flipped; `lost_at` is an argument of a command."""

    cut_bytes = 0
    flip = False
    lost_at = ""

    def put(self, source: Path, destination: str, **options: Any) -> None:
        """See `Transport`."""
        if source.name.endswith(".tar.gz"):
            content = bytearray(source.read_bytes())
            content[len(content) // 2] ^= self.flip
            source = source.parent / "spoilt"
            source.write_bytes(bytes(content[: len(content) - self.cut_bytes]))
        super().put(source, destination, **options)

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        """See `Transport`."""
        if self.lost_at and (self.lost_at in argv or argv[0] == "rm"):
            raise ConnectError(self.board, "the link is lost")
        return super().run(argv, **options)


def faulty(monkeypatch: pytest.MonkeyPatch, **faults: object) -> None:
    """Let boards be provisioned over such a link."""
    for name, value in faults.items():
        monkeypatch.setattr(Faulty, name, value)
    monkeypatch.setattr(provision, "open_transport", lambda device, base: Faulty(device.name))
