"""Keeps the native runners that the user has, named by their content: benchmark_model, onnxruntime_perf_test."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgedeploy.board.elf import HEAD_BYTES, MACHINES, header_machine
from edgedeploy.errors import PlanError, StoreError
from edgedeploy.records import Format
from edgedeploy.store import file_digest

# What runs files of a format, by what the name of the binary holds.
KINDS: Mapping[str, Format] = {"benchmark_model": Format.TFLITE, "onnxruntime_perf_test": Format.ONNX}

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Runner:
    """A native runner: `kind` says how it is called and read; `files` are digests by name, the binary's first.

    `id` is the digest of kind, names and contents, and names its folder on boards.
    """

    id: str
    kind: str
    arch: str
    files: Mapping[str, str]

    @property
    def format(self) -> Format:
        """What files it runs."""
        return KINDS[self.kind]

    @property
    def binary(self) -> str:
        """The name of the program among its files."""
        return next(iter(self.files))


class Runners:
    """The runners of a project, under a folder of its store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "runners"

    def add(self, path: Path, arch: str | None = None, beside: Sequence[Path] = ()) -> Runner:
        """Keep a runner and the libraries that it needs beside it. Raises PlanError and StoreError.

        `arch` is what it must have been built for.
        """
        kind = next((kind for kind in KINDS if kind in path.name), None)
        if kind is None:
            raise PlanError(f"{path}: not a runner that edgedeploy knows by its name; known are {', '.join(KINDS)}.")
        machine = elf_machine(path)
        if arch is not None and arch != machine:
            raise PlanError(f"{path}: built for {machine}, not for {arch}; give the binary for the board.")
        files = {}
        for file in (path, *beside):
            if not _NAME.fullmatch(file.name) or file.name in files:
                raise PlanError(f"{file}: another file beside it has that name, or it holds odd characters; rename it.")
            if elf_machine(file) != machine:
                raise PlanError(f"{file}: built for {elf_machine(file)}, but {path.name} is for {machine}.")
            files[file.name] = file_digest(file)[0]
        identity = json.dumps([kind, machine, list(files.items())])
        runner = Runner(hashlib.sha256(identity.encode()).hexdigest(), kind, machine, files)
        try:
            self._keep(runner, (path, *beside))
        except OSError as error:
            raise StoreError(f"{self._folder}: {path.name} cannot be kept: {error.strerror or error}.") from error
        return runner

    def list(self) -> list[Runner]:
        """All that were added, the latest first. Raises StoreError for one whose record cannot be read."""
        found = []
        folders = [each for each in self._folder.glob("*") if re.fullmatch("[0-9a-f]{64}", each.name)]
        for folder in sorted(folders, key=lambda each: (each.stat().st_mtime_ns, each.name), reverse=True):
            try:
                record = json.loads((folder / "runner.json").read_text("utf-8"))
                runner = Runner(record["id"], record["kind"], record["arch"], dict(record["files"]))
                known = runner.kind in KINDS and runner.id == folder.name and bool(runner.files)
                whole = known and all(_NAME.fullmatch(name) and (folder / name).is_file() for name in runner.files)
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise StoreError(f"{folder}: cannot be read ({error}); remove that folder and add it again.") from error
            if not whole:
                raise StoreError(f"{folder}: not whole; remove that folder and add the runner again.")
            found.append(runner)
        return found

    def remove(self, name: str) -> Runner:
        """Forget a runner, by the start of its id. Raises PlanError that lists what is there."""
        there = self.list()
        matches = [runner for runner in there if len(name) >= 6 and runner.id.startswith(name)]
        if len(matches) != 1:
            known = ", ".join(f"{runner.id[:12]} ({runner.kind}, {runner.arch})" for runner in there) or "none"
            raise PlanError(
                f"no one runner has an id that starts with `{name}` (6 characters at least); there: {known}."
            )
        shutil.rmtree(self._folder / matches[0].id)
        return matches[0]

    def fitting(self, arch: str) -> dict[Format, Runner]:
        """By format, the latest runner for boards of an architecture."""
        return {runner.format: runner for runner in reversed(self.list()) if runner.arch == arch}

    def path(self, runner: Runner, name: str) -> Path:
        """Where one of its files lies."""
        return self._folder / runner.id / name

    def _keep(self, runner: Runner, sources: Sequence[Path]) -> None:
        final = self._folder / runner.id
        self._folder.mkdir(parents=True, exist_ok=True)
        if final.exists():
            os.utime(final)  # the latest again
            return
        temporary = Path(tempfile.mkdtemp(dir=self._folder, prefix=".incoming-"))
        try:
            for source in sources:
                shutil.copyfile(source, temporary / source.name)
                if file_digest(temporary / source.name)[0] != runner.files[source.name]:
                    raise OSError(f"{source} changed while it was copied")
            (temporary / "runner.json").write_text(json.dumps(asdict(runner)), "utf-8")
            temporary.rename(final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def elf_machine(path: Path) -> str:
    """What a program or library was built for, as `uname -m` says it. Raises PlanError for a file that is neither."""
    try:
        with path.open("rb") as file:
            kind = header_machine(file.read(HEAD_BYTES))
    except OSError as error:
        raise PlanError(f"{path}: cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise PlanError(f"{path}: not a program for Linux or Android (no ELF file).") from error
    if kind not in MACHINES:
        raise PlanError(f"{path}: built for a machine (ELF {kind[1]}) that no device profile is for.")
    return MACHINES[kind]
