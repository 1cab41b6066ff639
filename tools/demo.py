"""The main job on real input: a digits CNN, its variants, and two boards that every machine has.

One board is this machine; the other stands behind a real SSH server on loopback that is started for the
demo and stopped after it, without root. `--board` only starts that server, for trying the verbs by hand.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from tools.loopback_ssh import LoopbackServer, loopback_ssh

FOLDER = Path("build") / "demo"
ALIAS = "loopback-board"


def main() -> int:
    """Run the demo; returns the exit code of `edgedeploy run`."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description=__doc__)
    parser.add_argument("--afresh", action="store_true", help="measure again what was already measured")
    parser.add_argument("--board", action="store_true", help="only run the board's SSH server until Ctrl-C")
    arguments = parser.parse_args()
    if platform.machine() != "x86_64":
        print("The demo's boards have the profile x86-64, and this machine is none.", file=sys.stderr)
        return 2
    started = time.monotonic()
    if not (FOLDER / "edgedeploy.toml").exists():
        edgedeploy("init", str(FOLDER), "--example", "digits-cnn")
    with loopback_ssh(FOLDER / "board", alias=ALIAS) as server:
        (FOLDER / "fleet.toml").write_text(fleet(server))
        if arguments.board:
            print(f"The board {ALIAS} answers; in another terminal: edgedeploy devices --probe -C {FOLDER}")
            print("Ctrl-C stops it.")
            try:
                signal.pause()
            except KeyboardInterrupt:
                return 0
        code = edgedeploy("run", "--project", str(FOLDER), "--mode", "smoke", *(["--afresh"] * arguments.afresh))
    print(f"Done in {time.monotonic() - started:.0f} s.")
    return code


def edgedeploy(*arguments: str) -> int:
    """Run the command as a user would, after showing it."""
    print("$", shlex.join(["edgedeploy", *arguments]), flush=True)
    return subprocess.run([sys.executable, "-m", "edgedeploy", *arguments], check=False).returncode


def fleet(server: LoopbackServer) -> str:
    """Two boards on one machine, which therefore are never measured at once."""
    folder = FOLDER.resolve()
    return f"""\
# Written by the demo.

[[device]]
name = "here"
profile = "x86-64"
address = "local:"
root = "{folder / "boards" / "here"}"
shares = "this machine"

[[device]]
name = "{ALIAS}"
profile = "x86-64"
address = "ssh://{ALIAS}"
ssh_config = "{server.ssh_config.relative_to(folder)}"
root = "{folder / "boards" / "behind-ssh"}"
python = "{sys.executable}"
shares = "this machine"
"""


if __name__ == "__main__":
    sys.exit(main())
