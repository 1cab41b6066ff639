"""Cuts what a board lacks into few and short transfers: only the rests of files, small files together."""

from __future__ import annotations

import hashlib
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A file of its own costs three round trips more, in which a slow link carries about as much.
BUNDLED_BYTES = 256 << 10
# What a cut link costs at most of files that travel together, which are sent again from their beginning.
MAX_BUNDLE_BYTES = 4 << 20
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Parcel:
    """One upload: slices of local files one after the other, and what the agent is told about each of their objects.

    `temporary` is where it goes, below the root; None where the board has all the bytes already.
    """

    temporary: str | None
    slices: tuple[tuple[Path, int, int], ...]
    entries: tuple[Mapping[str, Any], ...]

    @property
    def size_bytes(self) -> int:
        """The bytes to send."""
        return sum(length for _, _, length in self.slices)

    @contextmanager
    def file(self) -> Iterator[Path]:
        """A local file that holds exactly what is to be sent."""
        if len(self.slices) == 1 and self.slices[0][1] == 0:
            yield self.slices[0][0]
            return
        with tempfile.NamedTemporaryFile(prefix="edgedeploy-") as file:
            for path, start, length in self.slices:
                for chunk in _chunks(path, start, length):
                    file.write(chunk)
            file.flush()
            yield Path(file.name)


def parcels(files: Mapping[str, Path], sizes: Mapping[str, int], kept: Mapping[str, int]) -> list[Parcel]:
    """How to send the objects of `sizes` (by SHA-256), of which the board has the first `kept` bytes."""
    token = secrets.token_hex(8)
    small = [sha256 for sha256, size in sizes.items() if size <= BUNDLED_BYTES and not kept.get(sha256)]
    together = small if len(small) > 1 else []
    found = [_alone(token, files[sha256], sha256, sizes[sha256], kept.get(sha256, 0)) for sha256 in sizes]
    alone = [parcel for sha256, parcel in zip(sizes, found, strict=True) if sha256 not in together]
    return [*_bundles(token, files, sizes, together), *alone]


def _alone(token: str, file: Path, sha256: str, size: int, kept: int) -> Parcel:
    entry: dict[str, Any] = {"sha256": sha256, "size_bytes": size}
    if kept:
        entry["kept"] = kept
    if kept and kept == size:
        return Parcel(None, (), (entry,))
    # The digest and the place in the name are what a later push finds it by, should this one be cut off.
    entry["temporary"] = f"tmp/{token}-{sha256}@{kept}"
    return Parcel(entry["temporary"], ((file, kept, size - kept),), (entry,))


def _bundles(
    token: str, files: Mapping[str, Path], sizes: Mapping[str, int], together: Sequence[str]
) -> Iterator[Parcel]:
    batches: list[list[str]] = []
    filled = 0
    for sha256 in together:
        if not batches or filled + sizes[sha256] > MAX_BUNDLE_BYTES:
            batches.append([])
            filled = 0
        batches[-1].append(sha256)
        filled += sizes[sha256]
    for number, batch in enumerate(batches):
        temporary = f"tmp/{token}-bundle-{number}"
        entries, place = [], 0
        for sha256 in batch:
            entries.append({"sha256": sha256, "size_bytes": sizes[sha256], "temporary": temporary, "skip": place})
            place += sizes[sha256]
        yield Parcel(temporary, tuple((files[sha256], 0, sizes[sha256]) for sha256 in batch), tuple(entries))


def verified_bytes(file: Path, marks: Iterable[Mapping[str, Any]]) -> int:
    """How many bytes a board has right from the beginning on, by the digests of beginnings that it tells."""
    digest, done, verified = hashlib.sha256(), 0, 0
    size = file.stat().st_size
    for mark in sorted(marks, key=lambda each: int(each["bytes"])):
        if mark["bytes"] > size:
            break
        for chunk in _chunks(file, done, mark["bytes"] - done):
            digest.update(chunk)
        done = mark["bytes"]
        if digest.hexdigest() == mark["sha256"]:
            verified = done
    return verified


def _chunks(path: Path, start: int, length: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while length and (chunk := file.read(min(_CHUNK_BYTES, length))):
            length -= len(chunk)
            yield chunk
