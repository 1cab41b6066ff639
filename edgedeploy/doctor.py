"""Says what is missing on this machine and on the boards, and how to mend it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from edgedeploy.board import Board
from edgedeploy.board.bare import BareBoard, open_any_board
from edgedeploy.board.runners import KINDS
from edgedeploy.board.untrusted import printable
from edgedeploy.errors import EdgeDeployError, PlanError
from edgedeploy.lab import run_over
from edgedeploy.plan import FLEET_FILE, PLAN_FILE
from edgedeploy.project import STORE_FOLDER, Project
from edgedeploy.records import Device, DeviceProfile, Snapshot
from edgedeploy.transport import ssh_config_file
from edgedeploy.transport.adb_server import find_adb
from edgedeploy.transport.address import parse_address
from edgedeploy.transport.ssh_config import resolve

HOST = "this machine"
JOB_TIMEOUT_S = 300.0
LEAST_FREE_BYTES = 256 << 20
LEAST_STORE_BYTES = 1 << 30
# What the shell needs that pushes files and starts runners where no Python does.
NATIVE_TOOLS = ("sha256sum", "flock")
# Beyond this, certificates and signed manifests that are new look as if they were not valid yet.
CLOCK_LIMIT_S = 60.0
# `vcgencmd get_throttled`: the low bits say what is so now, those from 16 on what has been so since the start.
_THROTTLED_NOW = {0: "under-voltage", 1: "a capped frequency", 2: "throttling", 3: "the soft temperature limit"}
_EXTRAS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "compress": (("torch", "torch_pruning", "safetensors"), "passes that change a net"),
    "onnx": (("onnx", "onnxruntime", "onnxscript", "onnxslim"), "ONNX files"),
    "tflite": (("ai_edge_litert", "ai_edge_quantizer", "litert_torch"), "TFLite files"),
}


class Level(StrEnum):
    """How much a finding matters: nothing, something that may be meant so, something that does not work."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, on this machine or on a device; `mend` says what to do unless it is ok."""

    where: str
    what: str
    level: Level
    detail: str
    mend: str = ""


def examine(project: Project, devices: Sequence[str] = (), jobs: int | None = None) -> list[Finding]:
    """Look at this machine and at the named devices of the fleet, or at all. Raises PlanError for files with mistakes.

    A project without a fleet has this machine looked at alone.
    """
    boards = project.devices(devices) if (project.folder / FLEET_FILE).exists() or devices else []
    findings = [*_host(project, boards)]
    for visited in run_over(boards, lambda device: list(_device(project, device)), workers=jobs):
        if visited.error is not None:
            findings.append(_unreachable(visited.device, visited.error))
        findings += visited.value or []
    return findings


def _host(project: Project, boards: Sequence[Device]) -> Iterator[Finding]:
    wanted = _wanted_extras(project)
    for extra, (modules, what) in _EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if not missing:
            yield Finding(HOST, f"extra {extra}", Level.OK, f"{what} can be made")
            continue
        yield Finding(
            HOST,
            f"extra {extra}",
            Level.FAULT if extra in wanted else Level.WARNING,
            f"{', '.join(missing)} cannot be imported, so there are no {what}",
            f"pip install 'edgedeploy[{extra}]'",
        )
    schemes = {board.scheme for board in boards}
    if "adb" in schemes:
        yield _program("adb", find_adb(), "phones are reached by it", "apt install adb, or Android's platform-tools")
    if "ssh" in schemes:
        yield _program(
            "ssh-keygen",
            shutil.which("ssh-keygen"),
            "host keys are shown and removed with it",
            "apt install openssh-client",
        )
        yield from _keys(project, [board for board in boards if board.scheme == "ssh"])
    folder = project.folder / STORE_FOLDER
    free = shutil.disk_usage(folder if folder.exists() else project.folder).free
    level = Level.OK if free >= LEAST_STORE_BYTES else Level.WARNING
    yield Finding(
        HOST, "disk", level, f"{_mib(free)} free for {folder}", "" if level is Level.OK else "make room there"
    )


def _wanted_extras(project: Project) -> set[str]:
    """The extras without which the plan cannot be built; none where there is no plan."""
    try:
        targets = [target for recipe in project.plan.recipes for target in recipe.targets]
    except PlanError:
        if (project.folder / PLAN_FILE).exists():
            raise
        return set()
    return {"compress", *(target.format.value for target in targets)}


def _program(name: str, found: str | None, why: str, mend: str) -> Finding:
    if found:
        return Finding(HOST, name, Level.OK, found)
    return Finding(HOST, name, Level.FAULT, f"it is not installed; {why}", mend)


def _keys(project: Project, boards: Sequence[Device]) -> Iterator[Finding]:
    """Private keys that others may read, and boards for which there is none at all."""
    seen: set[Path] = set()
    with_agent = bool(os.environ.get("SSH_AUTH_SOCK"))
    for board in boards:
        address = parse_address(board.address, f"device {board.name!r}")
        hosts = resolve(address, ssh_config_file(board, project.folder))
        files = [file for host in hosts for file in host.identity_files]
        there = [file for file in files if file.is_file()]
        if not there and not (with_agent and hosts[-1].use_agent):
            yield Finding(
                board.name,
                "SSH key",
                Level.FAULT,
                f"neither {', '.join(map(str, files)) or 'a key'} nor an agent is there",
                "make a key with `ssh-keygen -t ed25519` and enrol it with `ssh-copy-id`",
            )
        for file in sorted({*there} - seen):
            seen.add(file)
            mode = stat.S_IMODE(file.stat().st_mode)
            if mode & 0o077:
                detail = f"{file} may be read by others (mode {mode:o}); OpenSSH refuses such a key"
                yield Finding(HOST, "SSH key", Level.FAULT, detail, f"chmod 600 {file}")
            else:
                yield Finding(HOST, "SSH key", Level.OK, f"{file} is its owner's alone")


def _unreachable(device: str, error: EdgeDeployError) -> Finding:
    return Finding(device, "board", Level.FAULT, *_taken_apart(device, error))


def _taken_apart(device: str, error: EdgeDeployError) -> tuple[str, str]:
    """An error is a sentence that leads with the board, and says what is wrong and how to mend it."""
    text = str(error).removeprefix(f"{device}: ")
    detail, semicolon, mend = text.rpartition("; ")
    return (detail, mend.rstrip(".")) if semicolon else (text, "")


def _device(project: Project, device: Device) -> Iterator[Finding]:
    kind = project.profile(device)
    with open_any_board(device, kind, project.folder) as board:
        facts = board.facts
        yield Finding(device.name, "board", Level.OK, f"{facts.machine}, {facts.kernel}, root {board.root}")
        if isinstance(board, BareBoard):
            yield from _without_python(project, device, kind, board)
            yield _space(device.name, board)
            return
        yield Finding(device.name, "Python", Level.OK, f"{facts.python_version}, {board.python}")
        if facts.has_numpy:
            yield Finding(device.name, "numpy", Level.OK, "packed files can be rebuilt there")
        else:
            mend = f"run `edgedeploy provision`, or {board.python} -m pip install numpy"
            detail = "it is not there, so files travel and lie unpacked, and most runtimes do not work"
            yield Finding(device.name, "numpy", Level.WARNING, detail, mend)
        yield _space(device.name, board)
        report = board.run_job([{"op": "facts"}, {"op": "health"}], timeout_s=JOB_TIMEOUT_S)
        yield _clock(device.name, report["finished_unix_ns"] / 1e9 - time.time())
        told = board.result(report, 0)["facts"]
        yield _runtimes(board, kind, told["runtimes"])
        if device.scheme != "adb":  # phones take no releases
            yield _verifier(device.name, told["verifier"])
        yield from _state(device.name, kind, board.result(report, 1))


def _without_python(project: Project, device: Device, kind: DeviceProfile, board: BareBoard) -> Iterator[Finding]:
    """Whether native runners can measure there all the same, as they do on phones."""
    runners = project.runners.fitting(kind.arch)
    wanted = dict.fromkeys(runtime.format for runtime in kind.runtimes)
    no_python, mend = _taken_apart(device.name, board.no_python)
    tools = ", ".join(f"{name} for {file_format} files" for name, file_format in KINDS.items())
    add = f"`edgedeploy runtimes add` with one that is built for {kind.arch} ({tools})"
    if not any(file_format in runners for file_format in wanted):
        yield Finding(device.name, "Python", Level.FAULT, no_python, f"{mend}; or have a native runner measure: {add}")
        return
    if device.scheme == "adb":
        yield Finding(device.name, "Python", Level.OK, f"{no_python}: native runners measure in its place")
    else:
        detail = f"{no_python}: native runners measure in its place, and nothing can be deployed"
        yield Finding(device.name, "Python", Level.WARNING, detail, mend)
    for file_format in wanted:
        if file_format in runners:
            detail = f"{runners[file_format].kind} measures {file_format} files, on the CPU alone"
            yield Finding(device.name, f"{file_format} files", Level.OK, detail)
        else:
            detail = f"they are not measured: no native runner for {kind.arch} was added"
            yield Finding(device.name, f"{file_format} files", Level.WARNING, detail, f"{add}, if they are needed")
    missing = [tool for tool in NATIVE_TOOLS if not board.ask(f"command -v {tool}").strip()]
    if missing:
        detail = f"its shell has no {' and no '.join(missing)}, without which no native runner runs there"
        yield Finding(device.name, "shell", Level.FAULT, detail, "bring it a Python with `edgedeploy provision`")
    if not board.facts.system.executable:
        place = board.facts.system.executable_place or "/data/local/tmp"
        detail = f"no program can be run below {board.root}"
        yield Finding(device.name, "root", Level.FAULT, detail, f"set `root =` in fleet.toml to a folder in {place}")


def _space(device: str, board: Board | BareBoard) -> Finding:
    free, total = board.facts.free_bytes, board.facts.total_bytes
    if free is None or total is None:
        return Finding(device, "space", Level.WARNING, f"the board does not say how much is free in {board.root}", "")
    detail = f"{_mib(free)} of {_mib(total)} free in {board.root}"
    if free >= min(LEAST_FREE_BYTES, total // 10):
        return Finding(device, "space", Level.OK, detail)
    return Finding(device, "space", Level.FAULT, detail, "clear it, or set `root =` in fleet.toml to another disk")


def _clock(device: str, ahead_s: float) -> Finding:
    if abs(ahead_s) <= CLOCK_LIMIT_S:
        return Finding(device, "clock", Level.OK, f"it agrees with this machine's within {CLOCK_LIMIT_S:.0f} s")
    way = "ahead of" if ahead_s > 0 else "behind"
    detail = f"it is {abs(ahead_s):,.0f} s {way} this machine's"
    return Finding(device, "clock", Level.FAULT, detail, "switch on NTP there (`timedatectl set-ntp true`)")


def _runtimes(board: Board, kind: DeviceProfile, there: Mapping[str, str]) -> Finding:
    wanted = dict.fromkeys(runtime.name for runtime in kind.runtimes)
    found = [f"{name} {version}" for name, version in sorted(there.items())]
    # one package under its two names
    missing = [name for name in wanted if name.replace("-", "_") not in {each.replace("-", "_") for each in there}]
    if not found:
        package = " or ".join(wanted) or "onnxruntime"
        mend = f"run `edgedeploy provision`, or install {package} in {board.python}, or set `python =` in fleet.toml"
        return Finding(board.name, "runtimes", Level.FAULT, f"{board.python} can import none", mend)
    if missing:
        detail = f"{', '.join(found)}; not {', '.join(missing)}, which its profile lists"
        return Finding(
            board.name, "runtimes", Level.WARNING, detail, f"install {' and '.join(missing)} there if needed"
        )
    return Finding(board.name, "runtimes", Level.OK, ", ".join(found))


def _verifier(device: str, verifier: str) -> Finding:
    if verifier:
        return Finding(device, "signatures", Level.OK, f"{printable(verifier)} checks those of releases")
    mend = "run `edgedeploy provision`, or install openssh-client 8.2 or later there"
    return Finding(
        device, "signatures", Level.WARNING, "nothing there can check them, so that it takes no release", mend
    )


def _state(device: str, kind: DeviceProfile, health: Mapping[str, Any]) -> Iterator[Finding]:
    state = health["state"]
    if health["power"]:
        yield Finding(device, "power sensor", Level.OK, health["power"])
    else:
        mend = "let the user who logs in read it, or do without energy"
        expected = kind.power_source is not None or "root" in health["no_power"]
        yield Finding(
            device,
            "power sensor",
            Level.WARNING if expected else Level.OK,
            health["no_power"] or "there is none",
            mend if expected else "",
        )
    now = [what for bit, what in _THROTTLED_NOW.items() if (state["throttled"] or 0) >> bit & 1]
    now += Snapshot(cooling=state["cooling"]).slowed
    hottest = max(state["temperatures_c"].values(), default=None)
    limit = kind.max_temperature_c
    if now:
        mend = "give it a better power supply" if "under-voltage" in now else "cool it"
        yield Finding(device, "throttling", Level.FAULT, f"at this moment: {', '.join(now)}", mend)
    elif hottest is not None and limit is not None and hottest >= limit:
        yield Finding(device, "throttling", Level.FAULT, f"{hottest:.0f} degrees, its limit is {limit:.0f}", "cool it")
    else:
        told = (
            "none at this moment"
            if state["throttled"] is not None or state["cooling"]
            else "the board does not tell of any"
        )
        yield Finding(device, "throttling", Level.OK, told + (f", {hottest:.0f} degrees" if hottest else ""))


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB"
