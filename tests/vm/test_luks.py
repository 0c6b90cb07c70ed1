"""LUKS2 on an array: its passphrase comes from the authority's key, and no disk ever holds what is above it."""

from __future__ import annotations

import secrets
from pathlib import Path

import psutil
import pytest

from tests.cli.rig import Rig
from tests.lying_host.test_memory import found

from .guest import Disk, Guest
from .writer import Writer

SIZE = "32M"
DISKS = 5
FILES = 5
PASSPHRASE = "data.passphrase"
FORMAT = "cryptsetup luksFormat -q --type luks2 --sector-size 4096 --pbkdf pbkdf2 --pbkdf-force-iterations 1000"
OPEN = f"cryptsetup open --key-file {PASSPHRASE} /dev/vda data"
MAPPED = "/dev/mapper/data"


@pytest.mark.parametrize("integrity", ["", "--integrity hmac-sha256"], ids=["encrypted", "authenticated"])
@pytest.mark.parametrize("sealing", ["perdure", "none"], ids=["sealed", "in-the-clear"])
@pytest.mark.timeout(900)
def test_files_on_luks_are_there_after_a_reboot_and_in_no_disks_memory(
    rig: Rig, guest: Guest, tmp_path: Path, sealing: str, integrity: str
) -> None:
    disk = Disk(rig.up("--sealing", sealing, size=SIZE)["nbd_uri"])
    in_the_open, in_luks = secrets.token_hex(32).encode(), secrets.token_hex(32).encode()
    rig.write(0, in_the_open * 64)
    assert (count(rig, in_the_open) > 0) == (sealing == "none"), "it is looked for in the right way"

    passphrase = derived_passphrase(rig, tmp_path)
    guest.boot(disk)
    guest.put(PASSPHRASE, passphrase)
    guest.put("marker", in_luks * 64)
    guest.call(f"{FORMAT} {integrity} --key-file {PASSPHRASE} /dev/vda && {OPEN}")
    guest.call(f"mkfs.ext4 -q -O ^has_journal {MAPPED} && mount {MAPPED} /mnt && cp marker /mnt/ && sync /mnt/marker")
    writer = Writer(guest)
    writer.start()
    writer.wait_for(FILES)
    writer.stop()
    guest.call("umount /mnt && cryptsetup close data")
    assert count(rig, in_luks) == 0
    assert count(rig, passphrase) == 0
    guest.power_off()

    guest.boot(disk)
    guest.put(PASSPHRASE, derived_passphrase(rig, tmp_path))
    guest.call(f"{OPEN} && e2fsck -fn {MAPPED} && mount {MAPPED} /mnt")
    writer.compare()
    assert guest.call("cat /mnt/marker").encode() == in_luks * 64


@pytest.mark.timeout(600)
def test_another_key_or_label_opens_nothing(rig: Rig, guest: Guest, tmp_path: Path) -> None:
    guest.boot(Disk(rig.up(size=SIZE)["nbd_uri"]))
    guest.put(PASSPHRASE, derived_passphrase(rig, tmp_path))
    guest.call(f"{FORMAT} --key-file {PASSPHRASE} /dev/vda")
    guest.put(PASSPHRASE, derived_passphrase(rig, tmp_path, label="other"))
    assert "No key available with this passphrase" in guest.call(OPEN, code=2)


def derived_passphrase(rig: Rig, directory: Path, label: str = "data") -> bytes:
    """By the rule of docs/keys.md, section 4; the same each time."""
    path = directory / f"{label}-{secrets.token_hex(4)}"
    rig.run("key", "passphrase", "--from", rig.directory / "authority.key", "--label", label, "-o", path)
    return path.read_bytes()


def count(rig: Rig, what: bytes) -> int:
    """How often it is in the memory of the disks."""
    launchers = [psutil.Process(rig.process(f"disk-{seat}").pid) for seat in range(DISKS)]
    return sum(found((launcher, *launcher.children(recursive=True)), [what]) for launcher in launchers)
