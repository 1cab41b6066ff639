"""The one place where the address of a board is taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from edgedeploy.errors import PlanError

_HOST = re.compile(r"[A-Za-z0-9_.:%][A-Za-z0-9_.:%-]*")
_USER = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@$\\-]*")


@dataclass(frozen=True, slots=True)
class Address:
    """A board's address; `host` is empty where the scheme has none, and None means that the user did not say."""

    scheme: str
    host: str = ""
    user: str | None = None
    port: int | None = None


def parse_address(text: str, where: str) -> Address:
    """Parse `local:` or `scheme://[user@]host[:port]`; `where` leads the PlanError raised for anything else."""
    scheme, colon, rest = text.partition(":")
    if not colon or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        raise PlanError(f"{where}: the address {text!r} is not one; write `local:` or `ssh://[user@]host[:port]`.")
    if scheme == "local":
        if rest:
            raise PlanError(f"{where}: the address {text!r} says too much; this machine is just `local:`.")
        return Address(scheme)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise PlanError(f"{where}: the address {text!r} cannot be read ({error}).") from error
    if parts.password is not None:
        raise PlanError(f"{where}: the address holds a password; remove it and log in with a key.")
    if parts.path not in ("", "/") or parts.query or parts.fragment or port == 0:
        raise PlanError(f"{where}: the address {text!r} should be `{scheme}://[user@]host[:port]`.")
    user = None if parts.username is None else unquote(parts.username)
    # urlsplit lowers the case of a host, but aliases in an ssh_config have one
    host = re.sub(r":\d*$", "", parts.netloc.rpartition("@")[2]).strip("[]")
    if not _HOST.fullmatch(host) or (user is not None and not _USER.fullmatch(user)):
        raise PlanError(f"{where}: the address {text!r} should be `{scheme}://[user@]host[:port]`.")
    return Address(scheme, host, user, port)
