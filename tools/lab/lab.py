"""The lab as a whole: brought up from nothing or from what a killed run left, and down without a trace."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self, TextIO

from tools.lab.boards import VirtualBoard
from tools.lab.cgroups import Cgroup, check_second_version
from tools.lab.fleet import client_key, host_key, write_access
from tools.lab.kinds import BOARDS
from tools.lab.network import PROJECT, Network, cables_group, pick_network
from tools.lab.roots import finish_root, root_folder, start_root
from tools.lab.system import LabError, check_machine, mounts_below, run, unmount_below

FOLDER = PROJECT / "build" / "lab"
ROOTS_VARIABLE = "EDGEDEPLOY_LAB_ROOTS"
LIVE_BYTES = 64 << 20


class Lab:
    """The virtual boards of one checkout; all state lies in `folder`."""

    def __init__(self, folder: Path = FOLDER, roots: Path | None = None) -> None:
        self.folder = folder.resolve()
        self.roots = (roots or Path(os.environ.get(ROOTS_VARIABLE) or self.folder / "roots")).resolve()

    @property
    def fleet_file(self) -> Path:
        """The fleet.toml of the boards that are up."""
        return self.folder / "fleet.toml"

    @property
    def boards(self) -> Mapping[str, VirtualBoard]:
        """The boards that this lab has, by name; empty where it is down."""
        network = self._network()
        if network is None:
            return {}
        names = (self.folder / "names").read_text().split()
        return {name: self._board(name, network) for name in names}

    def board(self, name: str) -> VirtualBoard:
        """One board that is up. Raises LabError that lists what there is."""
        boards = self.boards
        if name not in boards:
            known = f"it has {', '.join(boards)}" if boards else "it is down: `python -m tools.lab up` brings it up"
            raise LabError(f"The lab has no board {name!r}: {known}.")
        return boards[name]

    def up(self, names: Sequence[str] = (), *, patient: bool = False) -> Self:
        """Bring the named boards up, or all of them; those that run already are only mended.

        Boards of an earlier `up` stay. `patient` waits for another run that is bringing the lab up or down, which
        is an error otherwise. Raises LabError.
        """
        check_names(names)
        with self.locked(patient=patient):
            before = list(self.boards)
            wanted = [name for name in BOARDS if name in (names or BOARDS) or name in before]
            check_machine(emulated=any(BOARDS[name].emulated for name in wanted))
            if any(BOARDS[name].init == "systemd" for name in wanted):
                check_second_version()
            self._extract({BOARDS[name].root for name in wanted})
            network = self._network() or pick_network(self.folder)
            (self.folder / "names").write_text(" ".join(wanted))
            (self.folder / "network").write_text(network.mark)
            network.up()
            self._mount_live()
            key = client_key(self.folder)
            boards = [self._board(name, network) for name in wanted]
            public = Path(f"{key}.pub").read_text()
            made = [board for board in boards if self._made_afresh(board, public)]
            if wanted != before or not sensors_group(network).pids():
                self._start_sensors(network, wanted)
            write_access(self.folder, boards)
            for board in made:
                board.wait()
        return self

    def down(self, *, patient: bool = False) -> None:
        """End every process, mount, namespace and interface of this lab; the roots stay for the next `up`."""
        if not self.folder.exists():
            return
        with self.locked(patient=patient):
            network = self._network()
            if network is not None:
                if os.geteuid() != 0:
                    raise LabError("The lab was made by root and is only brought down by root: run it with sudo.")
                for name in BOARDS:
                    self._board(name, network).destroy()
                for group in (sensors_group(network), cables_group(network)):
                    group.kill()
                    group.remove()
                network.down()
            unmount_below(self.folder)
            for entry in self.folder.iterdir():
                if entry not in (self.roots, self.folder / "lock", self.folder / "users"):
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    @contextmanager
    def locked(self, *, patient: bool) -> Iterator[None]:
        """Keep others from bringing the lab up or down meanwhile. Raises LabError where one is at it."""
        with self._to_lock("lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if not patient:
                    raise LabError(
                        f"Another run is bringing the lab in {self.folder} up or down; wait for it."
                    ) from error
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def borrow(self, name: str) -> Iterator[VirtualBoard]:
        """Have one board to oneself, whole at the start, and made whole again at the end. Raises LabError."""
        board = self.board(name)
        with self._to_lock(f"locks/{name}") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            board.heal()
            try:
                yield board
            finally:
                board.heal()

    @contextmanager
    def in_use(self) -> Iterator[Self]:
        """The lab with all its boards for a while; the last user takes it down where it was not up before."""
        temporary = self.folder / "temporary"
        with self._to_lock("users") as users:
            fcntl.flock(users, fcntl.LOCK_SH)
            if not self.boards:
                temporary.touch()
            try:
                yield self.up(patient=True)
            finally:
                with suppress(BlockingIOError):
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if temporary.exists():
                        self.down(patient=True)

    def _to_lock(self, name: str) -> TextIO:
        """An empty file of the lab's folder, which `flock` may hold. Raises LabError."""
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("w")
        except PermissionError as error:
            raise LabError(f"{path} belongs to root: run the lab with sudo.") from error

    def _made_afresh(self, board: VirtualBoard, public_keys: str) -> bool:
        """Make a board that is not on, and mend one that is; returns whether it was made."""
        with self._to_lock(f"locks/{board.name}") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False  # who has borrowed it may want it broken, or off
            if board.running():
                board.heal()
                return False
            board.create(host_key=host_key(self.folder, board.name).read_text(), public_keys=public_keys)
            return True

    def _network(self) -> Network | None:
        try:
            return Network((self.folder / "network").read_text())
        except FileNotFoundError:
            return None

    def _board(self, name: str, network: Network) -> VirtualBoard:
        kind = BOARDS[name]
        number = 11 + list(BOARDS).index(name)
        return VirtualBoard(kind, number, self.folder, network, root_folder(self.roots, kind.root))

    def _extract(self, roots: set[str]) -> None:
        started = {name: start_root(self.roots, name) for name in sorted(roots)}
        for name, process in started.items():
            if process is not None:
                finish_root(self.roots, name, process)

    def _mount_live(self) -> None:
        live = self.folder / "live"
        live.mkdir(exist_ok=True)
        if live not in mounts_below(live):
            run(["mount", "-t", "tmpfs", "-o", f"mode=755,size={LIVE_BYTES}", "tmpfs", live])

    def _start_sensors(self, network: Network, names: Sequence[str]) -> None:
        group = sensors_group(network)
        group.create()
        group.kill()
        command = [sys.executable, "-m", "tools.lab.sensor_daemon", str(self.folder / "live"), network.mark, *names]
        with (self.folder / "sensors.log").open("ab") as log:
            group.start(command, log, PROJECT)


def sensors_group(network: Network) -> Cgroup:
    """Holds what keeps the sensors of all boards."""
    return Cgroup(f"{network.mark}/sensors")


def check_names(names: Sequence[str]) -> None:
    """Raise LabError for a name that no kind of board has."""
    for name in names:
        if name not in BOARDS:
            raise LabError(f"There is no board {name!r}: the lab knows {', '.join(BOARDS)}.")
