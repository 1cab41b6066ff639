"""What a command looks like on its way through adb, and how its end is told from the end of the link.

adb passes a command on as text for the phone's shell, and its own exit code is the command's or that of its own
failure, 1 and 255 alike. So the shell says after the command, under a random mark, how it ended: without the mark it
did not end. A phone from before Android 7 (no `shell_v2`) has one stream for both: standard error waits in a file.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

# A shell gives its background commands /dev/null to read, unless they read a copy of its input. The hang-up that
# adbd sends when the link ends goes to the shell alone, which hands it on.
_TOGETHER = """\
cd "${{HOME:-/}}" 2>/dev/null
exec 3<&0
{command} <&3 3<&- &
p=$!
trap 'kill -HUP "$p" 2>/dev/null; exit 129' HUP
exec 3<&- </dev/null
{{ wait "$p"; }} 2>/dev/null
c=$?
printf '%s%s\\n' {mark} "$c" >&2
exit "$c\""""

_FOLDERS = 'for d in /data/local/tmp "$TMPDIR" /tmp; do [ -d "$d" ] && [ -w "$d" ] && break; done'

# What adb has sent may be written a moment after it ended.
_WHOLE = """\
n=0
while [ "$(wc -c <"$e-in")" -ne {input_bytes} ] && [ "$n" -lt 20 ]; do sleep 0.1 || sleep 1; n=$((n + 1)); done
"""

_APART = """\
cd "${{HOME:-/}}" 2>/dev/null
{folders}
e="$d/.edgedeploy-{token}"
{wait}printf '%s\\n' {mark}
if {whole}; then {command} {stdin} 2>"$e"; c=$?; else c={short}; : >"$e"; fi
printf '\\n%s%s\\n' {mark} "$c"
cat "$e"
rm -f "$e" "$e-in\""""


SHORT = 999  # no shell's exit code: the input did not arrive whole


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended on the phone, and both its streams without the marks."""

    exit_code: int
    stdout: bytes
    stderr: bytes


def script_v2(argv: Sequence[str], token: str) -> str:
    """For a phone that keeps the streams apart; the exit code is the last line of standard error."""
    return _TOGETHER.format(command=shlex.join(argv), mark=_mark(token))


def script_v1(argv: Sequence[str], token: str, *, input_bytes: int | None = None, tethered: bool = False) -> str:
    """For a phone that has one stream: standard output, the exit code, standard error.

    Its input is the `input_bytes` that `input_v1` kept, nothing, or where it is `tethered` the link itself. Where fewer
    were kept the command is not run and the exit code is SHORT.
    """
    return _APART.format(
        folders=_FOLDERS,
        token=token,
        mark=_mark(token),
        wait="" if input_bytes is None else _WHOLE.format(input_bytes=input_bytes),
        whole=":" if input_bytes is None else f'[ "$(wc -c <"$e-in")" -eq {input_bytes} ]',
        command=shlex.join(argv),
        stdin="" if tethered else "</dev/null" if input_bytes is None else '<"$e-in"',
        short=SHORT,
    )


def input_v1(token: str) -> str:
    """Keeps what comes in for the command of the same token."""
    return f'{_FOLDERS}\ncat >"$d/.edgedeploy-{token}-in"'


def ended_v2(stdout: bytes, stderr: bytes, token: str) -> Ended | None:
    """What a command of `script_v2` came to, or None where it did not end."""
    match = _last(rb"%s(\d{1,3})\n" % _mark(token).encode(), stderr)
    if match is None:
        return None
    # what a process that outlives the command writes there comes later
    return Ended(int(match[1]), stdout, stderr[: match.start()] + stderr[match.end() :])


def ended_v1(stream: bytes, token: str) -> Ended | None:
    """What a command of `script_v1` came to, or None where it did not end; what a shell says before it is left out."""
    mark = _mark(token).encode()
    match = _last(rb"\n%s(\d{1,3})\n" % mark, stream)
    start = stream.find(mark + b"\n")
    if match is None or start < 0:
        return None
    return Ended(int(match[1]), stream[start + len(mark) + 1 : match.start()], stream[match.end() :])


def _mark(token: str) -> str:
    return f"edgedeploy-end-{token}:"


def _last(pattern: bytes, text: bytes) -> re.Match[bytes] | None:
    return next(reversed(list(re.finditer(pattern, text))), None)
