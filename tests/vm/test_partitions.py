"""One array, two partitions: a file system, and raw sectors for keys that have to be deletable."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from tests.cli.rig import Rig, perdure
from tests.lying_host.test_memory import found

from .guest import Disk, Guest
from .writer import Writer

SIZE = "32M"
KEY_BYTES = 4096
FILES = 5
LABEL = """printf 'label: gpt
name=keys, size=1MiB
name=files
' | sfdisk -q /dev/vda"""


@pytest.mark.timeout(600)
def test_a_key_on_a_raw_partition_is_erased_for_good_and_the_file_system_beside_it_is_unharmed(
    rig: Rig, guest: Guest, tmp_path: Path
) -> None:
    disk = Disk(rig.up(size=SIZE)["nbd_uri"])
    guest.boot(disk)
    guest.call(f"{LABEL} && mkfs.ext4 -q /dev/vda2 && mount /dev/vda2 /mnt")
    offset = 512 * int(guest.call("cat /sys/class/block/vda1/start"))
    assert offset % 4096 == 0, "whole sectors of the array can be erased, and nothing else with them"
    key = os.urandom(KEY_BYTES)
    guest.put("key", key)
    guest.call("dd if=key of=/dev/vda1 bs=4k oflag=direct conv=fsync,notrunc status=none")
    assert rig.read(offset, KEY_BYTES) == key

    writer = Writer(guest)
    writer.start()
    writer.wait_for(FILES)
    receipt = tmp_path / "receipt.json"
    rig.run("erase", "--offset", offset, "--length", KEY_BYTES, "-o", receipt)
    trusted = ("--policy", rig.directory / "policy.json", "--array-id", rig.status()["array_id"])
    verified = perdure("evidence", "verify-receipt", *trusted, "--json", receipt)
    assert verified.code == 0, verified.err
    assert (verified.json["offset"], verified.json["length"]) == (offset, KEY_BYTES)
    assert len(verified.json["witnesses"]) == 5
    assert found([psutil.Process(rig.process("main").pid)], [key[1000:1032]]) == 0
    writer.wait_for(FILES)
    writer.stop()
    seen = "dd if=/dev/vda1 bs=4k count=1 iflag=direct status=none | sha256sum"
    assert guest.call(seen) == guest.call("head -c 4096 /dev/zero | sha256sum")
    guest.call("umount /mnt && e2fsck -fn /dev/vda2 && mount /dev/vda2 /mnt")
    writer.compare()
    assert "keys" in guest.call("sgdisk --print /dev/vda && sgdisk --verify /dev/vda")
