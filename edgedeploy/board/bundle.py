"""Pack the on-device code into one file whose name, its hash, says exactly what a board runs."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from functools import cache
from pathlib import Path

from edgedeploy import on_device

_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_MAIN = '''\
"""Start the agent; any Python can read this file, so that one too old gets a clear answer."""

import sys

if sys.version_info < (3, 7):
    sys.exit("edgedeploy-agent: needs Python 3.7 or later, this is " + sys.version.split()[0])

from on_device.agent import main

sys.exit(main())
'''


@cache
def agent_bundle() -> tuple[bytes, str]:
    """Return the agent as a Python zip application and its SHA-256 in hexadecimal.

    Equal sources give equal bytes on any Python and machine: entries are stored, sorted and undated, because
    deflate differs between zlib versions.
    """
    folder = Path(on_device.__file__).parent
    files = {f"on_device/{path.name}": path.read_bytes() for path in folder.glob("*.py")}
    files["__main__.py"] = _MAIN.encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = _UNIX
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name].replace(b"\r\n", b"\n"), zipfile.ZIP_STORED)
    content = packed.getvalue()
    return content, hashlib.sha256(content).hexdigest()


@cache
def agent_on_its_way() -> bytes:
    """Return the agent as it travels: compressed by zlib, which every Python that runs it can undo."""
    return zlib.compress(agent_bundle()[0], 9)
