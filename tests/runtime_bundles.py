"""Small runtime bundles for the tests, good ones and bad: a runtime in them is a module with a version and no more."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterable
from typing import Any

RUNTIME = {"bundle.json": b"{}", "site/onnxruntime/__init__.py": b'__version__ = "99.1"\n'}


def entry(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname, info.mode = len(content), kind, link, 0o644
    return info, content


def archive(*more: tuple[tarfile.TarInfo, bytes], files: dict[str, bytes] = RUNTIME) -> bytes:
    """A packed bundle with these files and whatever else is wanted, however bad."""
    entries: Iterable[tuple[tarfile.TarInfo, bytes]] = [*(entry(name, files[name]) for name in files), *more]
    packed = io.BytesIO()
    with gzip.GzipFile("", "wb", 6, packed, mtime=0) as plain, tarfile.open(fileobj=plain, mode="w") as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def operation(packed: bytes, python: str = "python3", **more: Any) -> dict[str, Any]:
    return {
        "op": "unpack_runtime",
        "sha256": hashlib.sha256(packed).hexdigest(),
        "size_bytes": len(packed),
        "unpacked_bytes": 1 << 20,
        "files": 10,
        "python": python,
        "imports": ["onnxruntime"],
    } | more
