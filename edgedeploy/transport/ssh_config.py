"""What the user's OpenSSH configuration says about a host and the way to it."""

from __future__ import annotations

import getpass
import re
import shlex
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from edgedeploy.errors import PlanError
from edgedeploy.transport.address import Address, parse_address

if TYPE_CHECKING:
    from collections.abc import Mapping

    import paramiko

DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
_LISTS = ("userknownhostsfile", "globalknownhostsfile")
MAX_HOPS = 8
MAX_INCLUDES = 16


@dataclass(frozen=True, slots=True)
class Host:
    """One SSH server to log in to, everything resolved.

    `host_key_name` is its name in known_hosts; `proxy_command` is None or a shell command whose standard streams
    are the connection.
    """

    hostname: str
    port: int
    user: str
    identity_files: tuple[Path, ...]
    only_these_identities: bool
    use_agent: bool
    known_hosts: tuple[Path, ...]
    host_key_name: str | None
    proxy_command: str | None
    connect_timeout_s: float | None


def resolve(address: Address, config_file: Path | None) -> tuple[Host, ...]:
    """The servers to log in to one through the other; the last one is the board.

    `config_file` stands alone, as `ssh -F` has it; None means the user's and the system's files. What the
    address says wins over both. Raises PlanError for a configuration that cannot be used.
    """
    import paramiko

    where = str(config_file or Path("~/.ssh/config"))
    try:
        return tuple(_route(_parsed(_read(config_file)), address, where, 0))
    except (paramiko.ssh_exception.ConfigParseError, paramiko.ssh_exception.CouldNotCanonicalize) as error:
        raise PlanError(f"{where}: {error}.") from error
    except ImportError as error:
        raise PlanError(f"{where}: `Match exec` needs the Python package invoke, which is missing.") from error


# The boards of a fleet share a file in which each of them has its lines, so that reading it for every board anew costs
# as much as the square of their number.
@lru_cache(maxsize=4)
def _parsed(text: str) -> paramiko.SSHConfig:
    import paramiko

    return paramiko.SSHConfig.from_text(text)


def host_aliases(config_file: Path | None = None) -> tuple[str, ...]:
    """The hosts that the configuration names one by one, without patterns, in its order. Raises PlanError."""
    aliases: dict[str, None] = {}
    for line in _read(config_file).splitlines():
        keyword, value = _setting(line)
        if keyword == "host":
            names = _words(value, config_file or Path("~/.ssh/config"))
            aliases |= dict.fromkeys(name for name in names if not set(name) & set("*?!"))
    return tuple(aliases)


def _read(config_file: Path | None) -> str:
    home = Path("~/.ssh").expanduser()
    if config_file is not None:
        if not config_file.is_file():
            raise PlanError(f"{config_file}: this ssh_config does not exist; correct `ssh_config` in fleet.toml.")
        return "\n".join(_lines(config_file, home, 0))
    lines = _lines(home / "config", home, 0) if (home / "config").is_file() else []
    if SYSTEM_CONFIG.is_file():
        lines += ["Host *", *_lines(SYSTEM_CONFIG, SYSTEM_CONFIG.parent, 0)]
    return "\n".join(lines)


def _lines(file: Path, folder: Path, depth: int) -> list[str]:
    """The lines of a file with those that it includes in their place, which paramiko does not do."""
    if depth > MAX_INCLUDES:
        raise PlanError(f"{file}: Include goes deeper than {MAX_INCLUDES} files; does a file include itself?")
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{file}: this ssh_config cannot be read ({error}).") from error
    lines: list[str] = []
    block = "Host *"
    for line in text.splitlines():
        keyword, value = _setting(line)
        if keyword == "include":
            for pattern in _words(value, file):
                path = folder / Path(pattern).expanduser()
                for included in sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor)))):
                    lines += _lines(included, folder, depth + 1)
            lines.append(block)
            continue
        if keyword in ("host", "match"):
            block = line
        # paramiko takes the outer quotes off, also when they belong to two names
        lines.append(f"{keyword} {shlex.join(_words(value, file))}" if keyword in _LISTS else line)
    return lines


@lru_cache(maxsize=10_000)
def _setting(line: str) -> tuple[str, str]:
    """A line's keyword in lower case and the rest: `Keyword value` or `Keyword=value`."""
    keyword, _, value = re.sub(r"^\s*(\w+)(?:\s*=\s*|\s+)", r"\1 ", line).partition(" ")
    return keyword.lower(), value


def _words(text: str, file: Path) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise PlanError(f"{file}: {text!r} cannot be read ({error}).") from error


def _route(config: paramiko.SSHConfig, address: Address, where: str, depth: int) -> list[Host]:
    if depth > MAX_HOPS:
        raise PlanError(
            f"{where}: ProxyJump for {address.host!r} leads through more than {MAX_HOPS} hosts, or in a circle."
        )
    found: Mapping[str, object] = config.lookup(address.host)
    board = _host(found, address, where)
    jumps = str(found.get("proxyjump", "none"))
    if jumps.lower() == "none":
        return [board]
    hops: list[Host] = []
    for jump in (part.strip() for part in jumps.split(",")):
        target = jump if jump.startswith("ssh://") else f"ssh://{jump}"
        hop = parse_address(target, f"{where}: ProxyJump for {address.host!r}")
        # only the first jump host is reached the way its own configuration says; the others through the one before
        hops += [_host(config.lookup(hop.host), hop, where)] if hops else _route(config, hop, where, depth + 1)
    return [*hops, board]


def _host(found: Mapping[str, object], address: Address, where: str) -> Host:
    port = address.port or _number(found, "port", where) or 22
    user = address.user or str(found.get("user") or getpass.getuser())
    hostname = str(found["hostname"])
    only = str(found.get("identitiesonly", "no")).lower() == "yes"
    files = found.get("identityfile")
    identities = files if isinstance(files, list) else [f"~/.ssh/{name}" for name in DEFAULT_KEYS]
    local_files = str(found.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2"))
    global_files = str(found.get("globalknownhostsfile", "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"))
    tokens = {"%h": hostname, "%p": str(port), "%r": user, "%d": str(Path.home()), "%n": address.host}
    proxy_command = found.get("proxycommand")
    return Host(
        hostname=hostname,
        port=port,
        user=user,
        identity_files=tuple(Path(name).expanduser() for name in identities if str(name).lower() != "none"),
        only_these_identities=only,
        use_agent=str(found.get("identityagent", "")).lower() != "none",
        known_hosts=tuple(
            Path(_expand(name, tokens)).expanduser()
            for name in [*shlex.split(local_files), *shlex.split(global_files)]
            if name.lower() != "none"
        ),
        host_key_name=str(found["hostkeyalias"]) if "hostkeyalias" in found else None,
        proxy_command=None if proxy_command is None else _expand(str(proxy_command), tokens),
        connect_timeout_s=_number(found, "connecttimeout", where),
    )


def _expand(text: str, tokens: Mapping[str, str]) -> str:
    for token, value in tokens.items():
        text = text.replace(token, value)
    return text


def _number(found: Mapping[str, object], key: str, where: str) -> int | None:
    text = str(found.get(key, "none")).lower()
    if text == "none":
        return None
    if not text.isdecimal():
        raise PlanError(f"{where}: {key} is {text!r}, which is not a number.")
    return int(text)
