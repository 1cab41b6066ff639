"""A disk of limited size: a real ext4 file system in a file, with the faults that a real disk has."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
from pathlib import Path

from tools.lab.system import mounts_below, run

BLOCK_BYTES = 4096

# EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH, linux/fs/ext4/ext4.h: not even the journal is written any more.
_SHUTDOWN = 0x8004587D
_WITHOUT_THE_JOURNAL = struct.pack("I", 2)


class Disk:
    """The file system in `image`, which is mounted at `folder`."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.image = image
        self.folder = folder

    @property
    def mounted(self) -> bool:
        """Whether it can be read at `folder`."""
        return self.folder in mounts_below(self.folder)

    def create(self, size_bytes: int, inodes: int) -> None:
        """Make it afresh, empty, and mount it. Raises LabError."""
        self.folder.mkdir(parents=True)
        with self.image.open("wb") as file:
            file.truncate(size_bytes)
        # no blocks are kept back for root, so that a full disk is full for everyone
        options = ["-q", "-m", "0", "-N", str(inodes), "-E", "lazy_itable_init=1,nodiscard"]
        run(["mkfs.ext4", *options, self.image])
        self.mount()

    def mount(self) -> None:
        """Mount it unless it is. Raises LabError."""
        if not self.mounted:
            run(["mount", "-o", "loop", self.image, self.folder])

    def lose_power(self) -> None:
        """Have it forget whatever was not written to it yet, and take it away until it is mounted again."""
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(folder, _SHUTDOWN, _WITHOUT_THE_JOURNAL)
        finally:
            os.close(folder)
        run(["umount", "--lazy", self.folder])
        # Whoever holds a mount of it yet, in a namespace of his own, has the kernel write its superblock when he goes.
        survivor = self.image.with_suffix(".next")
        run(["cp", "--sparse=always", self.image, survivor])
        survivor.replace(self.image)

    def unmount(self) -> None:
        """Unmount it; what was written to it stays in `image`. Raises LabError where something still uses it."""
        if self.mounted:
            run(["umount", self.folder])

    def commit(self) -> None:
        """Write down all of it. What was removed is free only then."""
        run(["sync", "-f", self.folder])

    def fill(self, leave_bytes: int = 0) -> None:
        """Fill it until only `leave_bytes` are free."""
        self.commit()
        filler = os.open(self.folder / "filler", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            offset, step = os.fstat(filler).st_size, 1 << 40
            while step >= BLOCK_BYTES:
                about = os.fstatvfs(filler)
                step = min(step, about.f_bavail * about.f_frsize - leave_bytes) // BLOCK_BYTES * BLOCK_BYTES
                try:
                    if step > 0:
                        os.posix_fallocate(filler, offset, step)
                        offset += step
                except OSError:
                    step //= 2  # the file's own index takes blocks too
        finally:
            os.close(filler)

    def fill_inodes(self) -> None:
        """Use up its inodes: no file can be made, though blocks are free."""
        folder = self.folder / "fillers"
        folder.mkdir(exist_ok=True)
        self.commit()
        number = 0
        while os.statvfs(folder).f_favail:
            try:
                (folder / str(number)).touch()
                number += 1
            except OSError:
                self.commit()

    def release(self) -> None:
        """Take away what the two above put there."""
        (self.folder / "filler").unlink(missing_ok=True)
        shutil.rmtree(self.folder / "fillers", ignore_errors=True)
