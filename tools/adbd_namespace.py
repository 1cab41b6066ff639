"""Keeps an adbd and an adb server in a network of their own, because this adbd lets in whoever can reach it.

Run by `tools.adbd` as the first process of new user, mount, network and process namespaces: when it ends, all in
them ends. Lines on standard input: `start NAME JSON`, `kill NAME`, `stop NAME`, `continue NAME`, `mount OPTIONS PATH`,
`bind FILE PATH`; each is answered by a line.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_MS_BIND = 4096
_MOUNT_FLAGS = {"ro": 1, "noexec": 8}


def loopback_up() -> None:
    """What `ip link set lo up` does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, struct.pack("16sh22x", b"lo", 0))
        name, flags = struct.unpack("16sh22x", request)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", name, flags | _IFF_UP))


def mount_memory(options: str, path: str) -> None:
    """Mount an empty file system of memory over a folder, seen by what runs in here alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = sum(flag for option, flag in _MOUNT_FLAGS.items() if option in options.split(","))
    sizes = ",".join(option for option in options.split(",") if option not in _MOUNT_FLAGS)
    if libc.mount(b"tmpfs", path.encode(), b"tmpfs", flags, sizes.encode()) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)


def bind(source: str, path: str) -> None:
    """Have one file stand for another, for what runs in here alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), path.encode(), None, _MS_BIND, None) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)


def main() -> None:
    """Serve until standard input ends."""
    loopback_up()
    running: dict[str, subprocess.Popen[bytes]] = {}
    print("ready", flush=True)
    for line in sys.stdin:
        verb, rest = line.strip().split(" ", 1)
        if verb == "start":
            name, setup = rest.split(" ", 1)
            given = json.loads(setup)
            with Path(given["log"]).open("ab") as log:
                running[name] = subprocess.Popen(
                    given["argv"],
                    env=given["environment"],
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        elif verb == "kill":
            process = running.pop(rest)
            process.send_signal(signal.SIGKILL)
            process.wait()
        elif verb in ("stop", "continue"):
            running[rest].send_signal(signal.SIGSTOP if verb == "stop" else signal.SIGCONT)
        elif verb == "mount":
            mount_memory(*rest.split(" ", 1))
        elif verb == "bind":
            bind(*rest.split(" ", 1))
        print("done", flush=True)


if __name__ == "__main__":
    main()
