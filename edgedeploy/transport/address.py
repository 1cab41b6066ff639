"""The one place where the address of a board is taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from edgedeploy.errors import PlanError

_HOST = re.compile(r"[A-Za-z0-9_.:%][A-Za-z0-9_.:%-]*")
_SERIAL = re.compile(r"\[[0-9A-Fa-f:.%\w]+\]:\d{1,5}|[A-Za-z0-9_.][A-Za-z0-9_.:,-]*")
_USER = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@$\\-]*")


@dataclass(frozen=True, slots=True)
class Address:
    """A board's address; `host` is empty where the scheme has none, and None means that the user did not say.

    Of a phone behind adb, `host` is what adb calls it (a serial, `HOST:PORT`, or a qualifier such as `usb:1-4`) and
    `server_port` where the adb server listens.
    """

    scheme: str
    host: str = ""
    user: str | None = None
    port: int | None = None
    server_port: int | None = None


def parse_address(text: str, where: str) -> Address:
    """Parse `local:`, `scheme://[user@]host[:port]` or `adb://serial[?server-port=n]`.

    `where` leads the PlanError raised for anything else.
    """
    scheme, colon, rest = text.partition(":")
    if not colon or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        raise PlanError(
            f"{where}: the address {text!r} is not one; write `local:`, `ssh://[user@]host[:port]` or `adb://serial`."
        )
    if scheme == "local":
        if rest:
            raise PlanError(f"{where}: the address {text!r} says too much; this machine is just `local:`.")
        return Address(scheme)
    if scheme == "adb":
        return _parse_adb(text, rest, where)
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


def _parse_adb(text: str, rest: str, where: str) -> Address:
    serial, question, query = rest.removeprefix("//").partition("?")
    settings = dict(parse_qsl(query, keep_blank_values=True))
    port = settings.pop("server-port", None)
    known = port is None or (port.isascii() and port.isdecimal() and 0 < int(port) < 65536)
    if not rest.startswith("//") or not _SERIAL.fullmatch(serial) or settings or not known or (question and not port):
        raise PlanError(
            f"{where}: the address {text!r} should be `adb://SERIAL`, `adb://HOST:PORT` or `adb://usb:1-4`, with "
            "`?server-port=N` after it where the adb server listens at a port of its own."
        )
    return Address("adb", serial, server_port=None if port is None else int(port))
