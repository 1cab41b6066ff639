"""The lab from the command line: `python -m tools.lab up`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from tools.lab.cgroups import check_second_version
from tools.lab.lab import Lab
from tools.lab.system import LabError, check_machine


def main(argv: list[str] | None = None) -> int:
    """Do what the arguments say; returns 0, or 2 after a mistake that it has told in one sentence."""
    arguments = parser().parse_args(argv)
    try:
        arguments.action(Lab(), arguments)
    except LabError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """What the command line understands."""
    top = argparse.ArgumentParser(prog="python -m tools.lab", description="Virtual boards (root, Debian).")
    verbs = top.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, action: object, text: str, *, board: bool = True) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text)
        added.set_defaults(action=action)
        if board:
            added.add_argument("name", metavar="NAME", help="a board of the lab")
        return added

    up = verb("up", _up, "Bring boards up, or mend those that are.", board=False)
    up.add_argument("names", nargs="*", metavar="NAME", help="only these boards; all where none is named")
    verb("down", _down, "Take everything down; the extracted systems stay for the next time.", board=False)
    verb("status", _status, "Show the boards.", board=False)
    verb("check", _check, "Say whether this machine can carry the lab.", board=False)
    verb(
        "reboot",
        lambda lab, said: lab.board(said.name).reboot(),
        "Cut a board's power and switch it on again; what it had not synced to its disk is lost.",
    )
    link = verb("link", _link, "Make a board's link slow, lossy or dead, or --restore it.")
    link.add_argument("--delay-ms", type=_number(0, 60_000), default=0.0, help="hold packets, in each direction")
    link.add_argument("--loss", type=_number(0, 1), default=0.0, help="share of the packets that is lost, 0 to 1")
    link.add_argument("--rate-mbit", type=_number(0.01, 100_000), help="megabits a second, in each direction")
    link.add_argument("--cut", action="store_true", help="pull the plug")
    link.add_argument("--restore", action="store_true", help="plug it in again, fast and faultless")
    fill = verb("fill-disk", _fill, "Fill a board's storage, or --release it.")
    fill.add_argument("--inodes", action="store_true", help="use up the inodes instead of the blocks")
    fill.add_argument("--leave-bytes", type=int, default=0, metavar="N", help="so many bytes stay free")
    fill.add_argument("--release", action="store_true", help="take it away again")
    throttle = verb("throttle", _throttle, "Hold a board at its limit of heat, or --release it.")
    throttle.add_argument("--release", action="store_true", help="let it cool down")
    return top


def _number(least: float, most: float) -> Callable[[str], float]:
    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least:g} to {most:g}")
        return value

    return convert


def _up(lab: Lab, said: argparse.Namespace) -> None:
    started = time.monotonic()
    lab.up(said.names)
    _status(lab, said)
    print(f"Up in {time.monotonic() - started:.1f} s. For a project: cp {lab.fleet_file} PROJECT/")


def _down(lab: Lab, said: argparse.Namespace) -> None:
    del said
    lab.down()
    print("The lab is down.")


def _status(lab: Lab, said: argparse.Namespace) -> None:
    del said
    boards = lab.boards
    if not boards:
        print("The lab is down.")
    for name, board in boards.items():
        state = "on" if board.running() else "off"
        arch = "arm64, emulated" if board.kind.emulated else "amd64"
        where = f"{board.address}:{board.port}"
        print(f"{name:<8} {state:<4} {where:<20} {board.kind.profile:<17} {arch}")


def _check(lab: Lab, said: argparse.Namespace) -> None:
    del lab, said
    check_machine(emulated=True)
    check_second_version()
    print("This machine can carry the lab.")


def _link(lab: Lab, said: argparse.Namespace) -> None:
    shaped = bool(said.delay_ms or said.loss or said.rate_mbit is not None)
    if said.cut + said.restore + shaped != 1:
        raise LabError("Say one thing of the link: --cut, --restore, or any of --delay-ms, --loss and --rate-mbit.")
    board = lab.board(said.name)
    if said.cut:
        board.cut()
    elif said.restore:
        board.restore()
    else:
        board.shape(delay_ms=said.delay_ms, loss=said.loss, rate_mbit=said.rate_mbit)


def _fill(lab: Lab, said: argparse.Namespace) -> None:
    board = lab.board(said.name)
    if said.release:
        board.disk.release()
    elif said.inodes:
        board.disk.fill_inodes()
    else:
        board.disk.fill(said.leave_bytes)


def _throttle(lab: Lab, said: argparse.Namespace) -> None:
    board = lab.board(said.name)
    if said.release:
        board.release_throttle()
    else:
        board.throttle()


if __name__ == "__main__":
    sys.exit(main())
