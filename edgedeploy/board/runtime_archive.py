"""Packs what is brought to a board into one file named by its hash: the same inputs give the same bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgedeploy.board.wheels import Wheel, members
from edgedeploy.store import file_digest

VERSION = 3  # raise it when the same wheels and packages are packed in another way
MANIFEST = "bundle.json"
_LEVEL = 6


@dataclass(frozen=True, slots=True)
class RuntimeBundle:
    """A packed runtime on this machine; `unpacked_bytes` and `files` are what a board needs room for."""

    sha256: str
    path: Path
    size_bytes: int
    unpacked_bytes: int
    files: int


def pack(
    cache: Path,
    wheels: Sequence[Wheel],
    extra: Mapping[str, Path],
    packages: Sequence[str],
    about: Mapping[str, object],
) -> RuntimeBundle:
    """Pack `wheels` under site/, `extra` where its keys say, and a manifest that holds `about`.

    What was packed from the same inputs is found again in `cache`, where its bytes are still those of its name;
    `packages` names what `extra` came from.
    """
    folder = cache / "bundles"
    folder.mkdir(parents=True, exist_ok=True)
    inputs = [
        VERSION,
        [(wheel.path.name, file_digest(wheel.path)[0]) for wheel in wheels],
        sorted(extra),
        list(packages),
    ]
    key = hashlib.sha256(json.dumps([inputs, about], sort_keys=True).encode()).hexdigest()
    answer = folder / f"{key}.json"
    found = _known(folder, answer)
    if found is not None:
        return found
    manifest = json.dumps({"schema": 1, **about}, sort_keys=True).encode() + b"\n"
    with tempfile.TemporaryDirectory(prefix=".pack-", dir=folder) as temporary:
        files = dict(extra)
        for wheel in wheels:
            files |= _unzipped(wheel, Path(temporary))
        packed = Path(temporary) / "packed"
        unpacked_bytes = _write(packed, files, manifest)
        sha256, size_bytes = file_digest(packed)
        path = packed.replace(folder / f"{sha256}.tar.gz")
    answer.write_text(json.dumps([sha256, unpacked_bytes, len(files) + 1]), "utf-8")
    return RuntimeBundle(sha256, path, size_bytes, unpacked_bytes, len(files) + 1)


def _known(folder: Path, answer: Path) -> RuntimeBundle | None:
    try:
        sha256, unpacked_bytes, files = json.loads(answer.read_text("utf-8"))
        path = folder / f"{sha256}.tar.gz"
        found, size_bytes = file_digest(path)
        if found != sha256:
            return None
        return RuntimeBundle(sha256, path, size_bytes, int(unpacked_bytes), int(files))
    except (OSError, ValueError, TypeError):
        return None


def _unzipped(wheel: Wheel, temporary: Path) -> dict[str, Path]:
    folder = temporary / wheel.name
    with zipfile.ZipFile(wheel.path) as archive:
        names = members(archive)
        for name in names:
            archive.extract(name, folder)  # which keeps every name inside the folder
    return {f"site/{name}": folder / name for name in names}


def _write(packed: Path, files: Mapping[str, Path], manifest: bytes) -> int:
    total = 0
    with (
        packed.open("wb") as raw,
        gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as plain,
        tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        # A tar that is asked for a folder by name says that it is missing unless it is there as a folder.
        for folder in sorted({name.partition("/")[0] for name in files}):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        # What starts Python comes first, so that a board without one need not read all of it for that.
        for name in [MANIFEST, *sorted(files, key=lambda name: (name.startswith("site/"), name))]:
            content = manifest if name == MANIFEST else files[name].read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o755 if name.startswith(("bin/", "lib/ld-linux")) else 0o644
            tar.addfile(entry, io.BytesIO(content))
            total += len(content)
    return total
