"""File systems of the kernel on an array, while the main program, disks and the machine itself are killed.

`fsync` is a promise: what a program had synced is there and whole afterwards. And a file system with a journal finds
itself clean. ext4 without a journal promises no order of its own structures: after a power cut it has to be repaired
(e2fsck -fy), which loses nothing that was synced.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.cli.rig import Rig

from .guest import Disk, Guest
from .writer import Writer

DEVICE = "/dev/vda"
RECONNECT_S = 60
FILES = 6


@dataclass(frozen=True, slots=True)
class FileSystem:
    """How one is made and looked at. The least size is that of its mkfs."""

    name: str
    size: str
    make: str
    check: str
    has_journal: bool = True

    def __str__(self) -> str:
        return self.name


EXT4 = FileSystem("ext4", "32M", "mkfs.ext4 -q", "e2fsck -fn")
KINDS = (
    EXT4,
    FileSystem("ext4-without-journal", "32M", "mkfs.ext4 -q -O ^has_journal", "e2fsck -fn", has_journal=False),
    FileSystem("xfs", "304M", "mkfs.xfs -q", "xfs_repair -n"),
    FileSystem("btrfs", "128M", "mkfs.btrfs -q", "btrfs check --readonly"),
)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


def prepare(rig: Rig, guest: Guest, kind: FileSystem, **disk: int | bool) -> tuple[Disk, Writer]:
    """An array with a new file system, mounted in the machine."""
    served = Disk(rig.up(size=kind.size)["nbd_uri"], **disk)
    guest.boot(served)
    guest.call(f"{kind.make} {DEVICE} && mount {DEVICE} /mnt")
    return served, Writer(guest)


def mount_again(guest: Guest, kind: FileSystem) -> None:
    """After it was not unmounted."""
    if not kind.has_journal:
        assert guest.type(f"e2fsck -fy {DEVICE}").code in (0, 1)
    guest.call(f"mount {DEVICE} /mnt")


def check_and_compare(guest: Guest, kind: FileSystem, writer: Writer) -> None:
    """Mounted it is whole; unmounted it is clean."""
    writer.compare()
    guest.call("umount /mnt")
    print(guest.call(f"{kind.check} {DEVICE}"))
    guest.call(f"mount {DEVICE} /mnt")
    writer.compare()


@every_kind
@pytest.mark.timeout(600)
def test_what_was_synced_is_there_after_power_is_cut_while_it_is_written(
    rig: Rig, guest: Guest, kind: FileSystem
) -> None:
    served, writer = prepare(rig, guest, kind)
    writer.start()
    writer.wait_for(FILES)
    writer.take(guest.cut_power())
    guest.boot(served)
    mount_again(guest, kind)
    check_and_compare(guest, kind, writer)


@every_kind
@pytest.mark.timeout(600)
def test_the_machine_only_waits_while_the_main_program_is_killed_and_back_and_two_of_five_disks_are_killed(
    rig: Rig, guest: Guest, kind: FileSystem
) -> None:
    _, writer = prepare(rig, guest, kind, write_cache=False, reconnect_s=RECONNECT_S)
    writer.start()
    writer.wait_for(FILES)
    rig.kill_main()
    rig.up(size=kind.size)
    writer.wait_for(FILES)
    rig.kill_disk(1)
    writer.wait_for(2)
    rig.kill_disk(4)
    writer.wait_for(FILES)
    writer.stop()
    check_and_compare(guest, kind, writer)
    assert rig.status()["summary"] == "[U_UU_]"
    assert "I/O error" not in guest.log()


@pytest.mark.timeout(600)
def test_without_reconnecting_a_killed_main_program_is_an_error_to_the_machine_and_nothing_synced_is_lost(
    rig: Rig, guest: Guest
) -> None:
    _, writer = prepare(rig, guest, EXT4)
    writer.start()
    writer.wait_for(FILES)
    rig.kill_main()
    writer.wait_until_it_fails()
    guest.cut_power()
    guest.boot(Disk(rig.up(size=EXT4.size)["nbd_uri"]))
    mount_again(guest, EXT4)
    check_and_compare(guest, EXT4, writer)
