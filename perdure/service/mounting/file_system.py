"""The file system on the array: which one it is, make one on a blank array only, check, mount.

A new one is made only where every byte reads as zero: it is not enough that no program finds a file system there, since
something else could be lost. One that cannot be mended without asking is not mounted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

from perdure.errors import Corrupt, Misuse
from perdure.service.mounting import attach, tools
from perdure.service.mounting.attach import Way
from perdure.service.site.processes import Process

_CHUNK_BYTES: Final = 4 << 20
_ZEROS: Final = bytes(_CHUNK_BYTES)
E2FSCK_UNCORRECTED: Final = 4
"""e2fsck(8): from here on errors are left, or it could not work; 1 and 2 are mended."""
ALWAYS: Final = ("nosuid", "nodev", "noatime")
"""A data directory needs neither, and no write for each read. What the user gives comes later and counts."""


class Kind(StrEnum):
    """The file systems that are known here."""

    EXT4 = "ext4"
    XFS = "xfs"
    BTRFS = "btrfs"


_MAGIC: Final = {Kind.EXT4: (1024 + 56, b"\x53\xef"), Kind.XFS: (0, b"XFSB"), Kind.BTRFS: (65536 + 64, b"_BHRfS_M")}
"""Where each says what it is: struct ext4_super_block, xfs_dsb and btrfs_super_block of Linux."""
_MAKE: Final = {
    Kind.EXT4: ["-q", "-F", "-b", "4096", "-E", "nodiscard"],
    Kind.XFS: ["-q", "-K", "-s", "size=4096"],
    Kind.BTRFS: ["-q", "--nodiscard"],
}
"""The array's sectors are written whole or not at all, so the file system's are to be of their size, 4,096 bytes."""


def kind_of(device: Path) -> Kind | None:
    """Which file system is there; None for nothing that is known."""
    fd = os.open(device, os.O_RDONLY)
    try:
        for kind, (offset, magic) in _MAGIC.items():
            if os.pread(fd, len(magic), offset) == magic:
                return kind
    finally:
        os.close(fd)
    return None


def is_blank(device: Path) -> bool:
    """Whether every byte reads as zero. Reads all of it, or up to the first that does not."""
    with device.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            if chunk != _ZEROS[: len(chunk)]:
                return False
    return True


def make(device: Path, kind: Kind) -> None:
    """A new file system on a blank array. Raises Misuse, with nothing changed, when it is not blank."""
    program = tools.require(f"mkfs.{kind}")
    if not is_blank(device):
        found = kind_of(device)
        what = f"it holds {found} already" if found else "there is data on it, though no file system that is known here"
        raise Misuse(
            f"The array is not blank: {what}; nothing was changed. Leave --make-file-system out to use what is there; "
            "`perdure erase` of the whole array gives up what it holds."
        )
    done = tools.call(Path(program).name, *_MAKE[kind], device)
    if done.code != 0:
        raise Misuse(
            f"mkfs.{kind} made no file system ({done.last_line}); nothing that existed is lost, since the array was "
            "blank. Choose another --file-system, or a larger array."
        )


def require_kind(device: Path, way: Way) -> Kind:
    """The file system that is there. Raises Misuse when there is none, or this way cannot mount it."""
    kind = kind_of(device)
    if kind is None:
        raise Misuse(
            "There is no file system on the array that is known here (ext4, XFS, Btrfs); nothing was changed. If it is "
            "a new array, add --make-file-system."
        )
    require_fit(kind, way)
    return kind


def require_fit(kind: Kind, way: Way) -> None:
    """Raise Misuse where this way cannot mount this file system."""
    if way is Way.FUSE2FS and kind is not Kind.EXT4:
        raise Misuse(f"fuse2fs mounts ext4 and not {kind}; nothing was changed. {kind} needs root, --by loop or nbd.")


def check(device: Path, kind: Kind) -> str | None:
    """Mend what can be mended without asking; what was mended, if anything. Raises Corrupt for anything else.

    XFS replays its journal when it is mounted, and has nothing to be run before.
    """
    if kind is Kind.EXT4:
        done = tools.call("e2fsck", "-p", device)
        if done.code >= E2FSCK_UNCORRECTED:
            raise _damaged(kind, done, f"e2fsck -f {device}")
        return done.last_line if done.code else None
    if kind is Kind.BTRFS:
        done = tools.call("btrfs", "check", "--readonly", device)
        if done.code:
            raise _damaged(kind, done, f"btrfs check {device}")
    return None


def _damaged(kind: Kind, done: tools.Said, command: str) -> Corrupt:
    return Corrupt(
        f"The {kind} on the array cannot be mended without asking ({done.last_line}), so it was not mounted, and "
        f"the array is as it was. Show it as a file or device (`perdure up` prints how) and mend it with `{command}`."
    )


def _of_fuse2fs() -> list[str]:
    """Root's may be used by others, as the kernel permits; anybody else's is that user's alone, with every right."""
    return ["allow_other", "default_permissions"] if os.geteuid() == 0 else ["fakeroot"]


def mount(device: Path, mount_point: Path, kind: Kind, way: Way, options: Sequence[str], log: Path) -> Process | None:
    """Mount it; the server, where it is a process. Raises Corrupt where the file system itself is refused."""
    given = [*ALWAYS, *(["errors=remount-ro"] if kind is Kind.EXT4 else []), *options]
    if way is Way.FUSE2FS:
        command = [
            tools.require("fuse2fs"),
            str(device),
            str(mount_point),
            "-f",
            "-o",
            ",".join([*_of_fuse2fs(), *options]),
        ]
        return attach.start_server("fuse2fs", command, mount_point, log)
    if way is Way.LOOP:
        given.append("loop")  # so the loop device is given back with the mount, however that ends
    done = tools.call("mount", "-t", kind, "-o", ",".join(given), device, mount_point)
    if done.code != 0:
        raise Corrupt(
            f"The {kind} on the array cannot be mounted ({done.first_line}); what is on it was left as it is. Look at "
            "--mount-options and at the kernel's log (`dmesg`)."
        )
    return None
