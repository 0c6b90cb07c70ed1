"""The array as /dev/nbd0 of a machine: the kernel's own NBD client, over TCP."""

from __future__ import annotations

import pytest

from tests.cli.rig import Rig

from .guest import Guest
from .machine import free_port
from .writer import Writer

SIZE = "32M"
HOST = "10.0.2.2"
"""What QEMU's user network leads to: this machine's loopback."""
FILES = 5


@pytest.mark.timeout(600)
def test_a_file_system_over_the_kernels_client_is_there_after_a_power_cut_and_two_dead_disks(
    rig: Rig, guest: Guest
) -> None:
    port = free_port()
    rig.up("--nbd", f"tcp:127.0.0.1:{port}", size=SIZE)
    connect = f"modprobe nbd && nbd-client -N perdure {HOST} {port} /dev/nbd0"
    guest.boot()
    guest.call(f"{connect} && mkfs.ext4 -q /dev/nbd0 && mount /dev/nbd0 /mnt")
    writer = Writer(guest)
    writer.start()
    writer.wait_for(FILES)
    rig.kill_disk(0)
    rig.kill_disk(3)
    writer.wait_for(FILES)
    writer.take(guest.cut_power())
    guest.boot()
    guest.call(f"{connect} && mount /dev/nbd0 /mnt")
    writer.compare()
    guest.call("umount /mnt && e2fsck -fn /dev/nbd0 && nbd-client -d /dev/nbd0")
    assert rig.status()["requests"]["flush"]["count"] > FILES, "an fsync in the machine is a FLUSH of the array"
