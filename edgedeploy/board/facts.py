"""What a board says of itself in one round trip, before it has anything of ours, and whether that suffices."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgedeploy.errors import BoardError, NoPython
from edgedeploy.records import Device, DeviceProfile

OLDEST_PYTHON = (3, 7)

_MARK = "edgedeploy-probe:"

# Any Python runs this, so that one that is too old can say so.
_PYTHON_PROBE = f"""
import hashlib, struct, sys
print("{_MARK}python_version=%d.%d.%d" % tuple(sys.version_info[:3]))
print("{_MARK}python_bits=%d" % (struct.calcsize("P") * 8))
print("{_MARK}python=%s" % sys.executable)
try:
    with open(sys.argv[1], "rb") as agent:
        print("{_MARK}agent_sha256=%s" % hashlib.sha256(agent.read()).hexdigest())
except (IOError, OSError):
    pass
try:
    import importlib.util
    print("{_MARK}numpy=%s" % ("yes" if importlib.util.find_spec("numpy") else "no"))
except (ImportError, AttributeError, ValueError):
    pass
"""

# What a cut link left in tmp a day ago is nobody's any more.
# The subshell around the test write is needed: a redirection that fails ends a POSIX shell.
_PROBE = f"""
say() {{ printf '{_MARK}%s=%s\\n' "$1" "$2"; }}
printf '\\n'
root=$1
case $root in
  '~') root=$HOME ;;
  '~/'*) root=$HOME/${{root#'~/'}} ;;
  /*) ;;
  *) root=$HOME/$root ;;
esac
say home "$HOME"
say machine "$(uname -m)"
say kernel "$(uname -s) $(uname -r)"
say user_land_bits "$(getconf LONG_BIT 2>/dev/null)"
umask 077
mkdir -p -- "$root/agents" "$root/tmp" "$root/objects/sha256" 2>/dev/null
if ( root=$(cd -- "$root" && pwd -P) && : > "$root/tmp/probe.$$" && rm -f -- "$root/tmp/probe.$$" ) 2>/dev/null; then
  root=$(cd -- "$root" && pwd -P)
  say writable yes
  find "$root/tmp" -type f -mtime +1 -exec rm -f -- {{}} + 2>/dev/null
fi
say root "$root"
say disk "$(df -P -k -- "$root" 2>/dev/null | tail -n 1)"
if command -v "$2" >/dev/null 2>&1; then
  say python_found yes
  "$2" -c "$4" "$root/agents/$3.pyz" </dev/null 2>/dev/null
fi
exit 0
"""

_DISK = re.compile(r"\s(\d+)\s+(\d+)\s+(-?\d+)\s+\d+%\s")
_SAME_MACHINE = {"arm64": "aarch64", "amd64": "x86_64", "x86-64": "x86_64", "armhf": "armv7l"}
_64_BIT = {"aarch64", "x86_64", "riscv64"}


@dataclass(frozen=True, slots=True)
class BoardFacts:
    """A board before any job; None where it does not tell.

    `user_land_bits` and `python_bits` are the widths of a pointer in the C library's view and in Python's.
    `agent_sha256` is the digest of the file that lies where the agent asked for should be. `has_numpy` says whether
    its Python can rebuild packed files.
    """

    machine: str
    kernel: str
    user_land_bits: int | None
    home: str
    root: str
    root_writable: bool
    free_bytes: int | None
    total_bytes: int | None
    python_found: bool
    python: str | None
    python_version: str | None
    python_bits: int | None
    agent_sha256: str | None
    has_numpy: bool = False


def probe_command(root: str, python: str, agent_sha256: str) -> list[str]:
    """The command whose standard output `parse_probe` reads; it makes the root's folders where it can."""
    return ["sh", "-c", _PROBE, "probe", root, python, agent_sha256, _PYTHON_PROBE]


def parse_probe(text: str) -> BoardFacts:
    """Read what the probe printed, passing over whatever else a login shell says."""
    said: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith(_MARK):
            key, _, value = line.removeprefix(_MARK).partition("=")
            said[key] = value.strip()
    disk = _DISK.search(said.get("disk", "") + " ")
    return BoardFacts(
        machine=said.get("machine", ""),
        kernel=said.get("kernel", ""),
        user_land_bits=_number(said.get("user_land_bits")),
        home=said.get("home", ""),
        root=said.get("root", ""),
        root_writable=said.get("writable") == "yes",
        free_bytes=max(0, int(disk[3])) * 1024 if disk else None,
        total_bytes=int(disk[1]) * 1024 if disk else None,
        python_found="python_found" in said,
        python=said.get("python") or None,
        python_version=said.get("python_version"),
        python_bits=_number(said.get("python_bits")),
        agent_sha256=said.get("agent_sha256"),
        has_numpy=said.get("numpy") == "yes",
    )


def check_facts(facts: BoardFacts, device: Device, profile: DeviceProfile, python: str) -> None:
    """Raise BoardError when the board cannot do what its profile promises, or cannot run the agent."""
    board = device.name
    if not facts.machine or not facts.root:
        raise BoardError(
            f"{board}: the board does not answer a POSIX shell's commands (sh, uname); is it a Linux board?"
        )
    machine = _SAME_MACHINE.get(facts.machine, facts.machine)
    wanted = _SAME_MACHINE.get(profile.arch, profile.arch)
    narrow = facts.user_land_bits == 32 or machine == "armv8l"
    # what a 64-bit Arm kernel calls itself to a 32-bit program, and what such a user land really is
    kernel = "aarch64" if machine == "armv8l" else machine
    if wanted in _64_BIT and kernel == wanted and (narrow or facts.python_bits == 32):
        what = "user land" if narrow else f"Python ({facts.python})"
        raise BoardError(
            f"{board}: the kernel is 64-bit ({facts.machine}) but the {what} is 32-bit, for which the runtimes of "
            f"{profile.name} have no wheels; install the 64-bit system."
        )
    if kernel != wanted and not (wanted == "armv7l" and kernel == "aarch64" and narrow):
        raise BoardError(
            f"{board}: the board is a {facts.machine} machine but its profile {profile.name} is for {profile.arch}; "
            "correct `profile` in fleet.toml, or install the system for that machine."
        )
    if facts.python_version is None:
        fault = "does not run" if facts.python_found else "is not there"
        raise NoPython(
            f"{board}: no Python: `{python}` {fault}; install python3 on the board, or set `python =` in fleet.toml."
        )
    version = tuple(int(part) for part in re.findall(r"\d+", facts.python_version)[:2])
    if version < OLDEST_PYTHON:
        raise NoPython(
            f"{board}: Python {facts.python_version} ({facts.python or python}) is too old, "
            f"{'.'.join(map(str, OLDEST_PYTHON))} is the least; set `python =` in fleet.toml to a newer one."
        )
    if not facts.root_writable:
        raise BoardError(
            f"{board}: cannot write to {facts.root}; make it writable for the user who logs in, "
            "or set `root =` in fleet.toml to a folder that is."
        )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
