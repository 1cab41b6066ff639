"""Root file systems for the boards, extracted once from the machine's own package sources and kept."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from tools.apt_sources import debian_sources
from tools.lab.kinds import ROOTS, RootKind
from tools.lab.system import LabError, environment

LAYOUT = 3  # raise it when `_finish` changes, so that older roots are made again
SUITE = "bookworm"
EXTRACT_S = 600.0


def root_folder(roots: Path, name: str) -> Path:
    """Where the root of that name lies once it is made."""
    kind = ROOTS[name]
    said = repr((LAYOUT, SUITE, kind.arch, sorted(kind.packages), kind.backports))
    return roots / f"{name}-{hashlib.sha256(said.encode()).hexdigest()[:12]}"


def start_root(roots: Path, name: str) -> subprocess.Popen[bytes] | None:
    """Start extracting a root; None where it is there already. Finish it with `finish_root`. Raises LabError."""
    folder = root_folder(roots, name)
    if (folder / ".complete").exists():
        return None
    roots.mkdir(parents=True, exist_ok=True)
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    kind = ROOTS[name]
    sources = folder.with_suffix(".sources")
    try:
        sources.write_text(debian_sources(SUITE, backports=kind.backports)[1])
    except FileNotFoundError as error:
        raise LabError(f"{error}, from which the lab's boards are made; add one.") from error
    command = [
        *("mmdebstrap", "--mode=root", f"--arch={kind.arch}", "--variant=extract", "--skip=check/signed-by"),
        *("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", f"--include={','.join(kind.packages)}"),
        *([f'--aptopt=APT::Default-Release "{SUITE}-backports"'] if kind.backports else []),
        *(SUITE, str(partial), str(sources)),
    ]
    with folder.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(), start_new_session=True
        )


def finish_root(roots: Path, name: str, extracting: subprocess.Popen[bytes]) -> Path:
    """Wait for what `start_root` started and make of it a root that boards can use. Raises LabError."""
    folder = root_folder(roots, name)
    try:
        code = extracting.wait(EXTRACT_S)
    except subprocess.TimeoutExpired as error:
        extracting.kill()
        raise LabError(
            f"mmdebstrap did not extract {name} within {EXTRACT_S:g} s; is the package mirror slow?"
        ) from error
    if code != 0:
        log = folder.with_suffix(".log")
        lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.startswith("E:")]
        said = lines[0] if lines else f"exit code {code}"
        raise LabError(f"mmdebstrap could not extract {name} ({said}); its log is {log}.")
    partial = folder.with_suffix(".partial")
    _finish(partial, ROOTS[name])
    partial.rename(folder)
    folder.with_suffix(".sources").unlink()
    (folder / ".complete").touch()
    return folder


def _finish(root: Path, kind: RootKind) -> None:
    """What the packages' own scripts would have done, which are not run: they would take minutes under emulation."""
    phone = "adbd" in kind.packages
    etc = root / "etc"
    (etc / "hosts").write_text("127.0.0.1\tlocalhost\n")
    for folder in ("proc", "sys", "dev", "run", "tmp", "mnt", "root", "etc/ssh", "var/tmp", "data/local/tmp"):
        if phone or not folder.startswith("data"):
            (root / folder).mkdir(parents=True, exist_ok=True)
    for folder in ("tmp", "var/tmp"):
        (root / folder).chmod(0o1777)
    for link, target in (("awk", "mawk"), ("which", "which.debianutils")):
        if not os.path.lexists(root / "usr/bin" / link):
            (root / "usr/bin" / link).symlink_to(target)
    loader = next(root.glob("usr/lib/*-linux-gnu/ld-linux-*.so.*"), None)
    if loader is None:
        raise LabError(f"{root} holds no dynamic loader; remove {root.parent} and bring the lab up again.")
