"""ZFS on an array, by zfs-fuse: it has checksums of its own, so a scrub says whether anything is not as it was."""

from __future__ import annotations

import time

import pytest

from tests.cli.rig import Rig

from .guest import Disk, Guest
from .writer import Writer

SIZE = "64M"
"""The least that a pool takes."""
FILES = 5
RECONNECT_S = 120
SCRUB_S = 120
DAEMON = "mkdir -p /etc/zfs && modprobe fuse && zfs-fuse && until zpool list > /dev/null 2>&1; do sleep 0.1; done"


@pytest.mark.timeout(900)
def test_a_pool_is_scrubbed_clean_after_the_main_program_two_disks_and_the_machine_were_killed(
    rig: Rig, guest: Guest
) -> None:
    disk = Disk(rig.up(size=SIZE)["nbd_uri"], write_cache=False, reconnect_s=RECONNECT_S)
    guest.boot(disk)
    guest.call(f"{DAEMON}; zpool create -f -m /mnt pool /dev/vda")
    writer = Writer(guest)
    writer.start()
    writer.wait_for(FILES)
    rig.kill_main()
    rig.up(size=SIZE)
    writer.wait_for(FILES)
    rig.kill_disk(2)
    rig.kill_disk(3)
    writer.wait_for(FILES)
    writer.take(guest.cut_power())
    guest.boot(disk)
    guest.call(f"{DAEMON}; zpool import -f pool")
    writer.compare()
    assert "with 0 errors" in scrub(guest)
    assert "errors: No known data errors" in guest.call("zpool status pool")


def scrub(guest: Guest) -> str:
    """Start one; what the pool's status says once it is over."""
    guest.call("zpool scrub pool")
    give_up = time.monotonic() + SCRUB_S
    while "completed" not in (said := guest.call("zpool status pool")):
        assert time.monotonic() < give_up, said
        time.sleep(0.5)  # how often to look, not how long to wait
    return said
