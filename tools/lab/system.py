"""What the lab asks of the machine below it, and plain words where something is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
BINFMT = Path("/proc/sys/fs/binfmt_misc")

# program -> the Debian package that brings it
PROGRAMS: Mapping[str, str] = {
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "tc": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
    "mkfs.ext4": "e2fsprogs",
    "update-binfmts": "binfmt-support",
    "qemu-aarch64-static": "qemu-user-static",
}


class LabError(Exception):
    """The lab cannot do what was asked of it; the message is one sentence that says how to mend that."""


def run(argv: Sequence[str | Path], *, check: bool = True, timeout_s: float = 60.0) -> str:
    """Run a program of the system and return its standard output. Raises LabError when it fails and `check`."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False, env=environment()
        )
    except FileNotFoundError as error:
        raise LabError(f"`{words[0]}` is not on this machine: {install_line([words[0]])}.") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"`{' '.join(words)}` did not end within {timeout_s:g} s.") from error
    if check and done.returncode != 0:
        said = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise LabError(f"`{' '.join(words)}` failed: {said}.")
    return done.stdout


def environment() -> dict[str, str]:
    """The variables for programs of the system: sbin is on the path, and they speak English."""
    return {**os.environ, "PATH": SYSTEM_PATH, "LC_ALL": "C"}


def check_machine(emulated: bool) -> None:
    """Raise LabError unless this machine can carry a lab; `emulated` asks for arm64."""
    if os.geteuid() != 0:
        raise LabError("The lab makes network namespaces and mounts and so needs root: run it with sudo.")
    wanted = [name for name in PROGRAMS if emulated or "qemu" not in name]
    missing = [name for name in wanted if shutil.which(name, path=SYSTEM_PATH) is None]
    if missing:
        raise LabError(f"The lab lacks {', '.join(missing)}: {install_line(missing)}.")
    for device in ("/dev/net/tun", "/dev/loop-control"):
        if not Path(device).exists():
            raise LabError(f"This kernel offers no {device}, which the lab's boards need; use a machine that has it.")
    try:
        run(["unshare", "--mount", "--net", "--pid", "--fork", "true"])
    except LabError as error:
        why = str(error).rstrip(".")
        raise LabError(f"This root may make no namespaces ({why}): use a machine or a container that may.") from error
    if emulated:
        enable_emulator()


def install_line(programs: Sequence[str]) -> str:
    """The command that installs what is missing, where Debian has it."""
    packages = sorted({PROGRAMS.get(name, name) for name in programs})
    return f"apt-get install {' '.join(packages)}"


def enable_emulator() -> None:
    """Have the kernel run arm64 programs through qemu, also inside a chroot. Raises LabError."""
    if not (BINFMT / "register").exists():
        run(["mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT])
    entry = BINFMT / "qemu-aarch64"
    if not entry.exists():
        run(["update-binfmts", "--import", "qemu-aarch64"], check=False)
        run(["update-binfmts", "--enable", "qemu-aarch64"], check=False)
    if not entry.exists():
        raise LabError(f"The kernel does not run arm64 programs: {entry} is missing; reinstall qemu-user-static.")
    text = entry.read_text()
    flags = next((line for line in text.splitlines() if line.startswith("flags:")), "")
    if not text.startswith("enabled") or "F" not in flags.partition(":")[2]:
        raise LabError(
            f"{entry} is not enabled with the flag F, so that no chroot finds qemu; reinstall qemu-user-static."
        )


def mounts_below(folder: Path) -> list[Path]:
    """What is mounted at or below `folder`, the innermost first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = Path(line.split()[4].replace("\\040", " "))
        if point == folder or folder in point.parents:
            found.append(point)
    return found[::-1]


def unmount_below(folder: Path) -> None:
    """Unmount everything at or below `folder`, even where something still uses it."""
    for point in mounts_below(folder.resolve()):
        run(["umount", point], check=False)
    for point in mounts_below(folder.resolve()):
        run(["umount", "--lazy", point])
