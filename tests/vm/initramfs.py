"""The ramdisk of a machine that uses an array: programs of this machine with their libraries, modules, and one shell.

Nothing else is in it: no udev, no systemd. Its init loads what a disk and a network need, and gives a bash the port of
`tests/vm/guest.py`. Other modules, for instance of ciphers, are loaded when the kernel asks for them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from perdure.image import cpio

from .kernel import Kernel

PORT = "/dev/vport0p1"
"""Of the first virtio-serial device: port 0 is kept for a console."""
MODULES = (  # folders and files below the kernel's own, with all that they need
    "arch/x86/crypto",
    "crypto",
    "drivers/block",
    "drivers/char/virtio_console.ko",
    "drivers/md",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
    "drivers/virtio",
    "fs/btrfs",
    "fs/fuse",
    "fs/xfs",
    "lib",
    "net/core",
)
AT_ONCE = ("virtio_pci", "virtio_console", "virtio_blk", "virtio_net")
PROGRAMS = {  # and the Debian packages that have them
    "bash": "bash",
    "blockdev": "util-linux",
    "btrfs": "btrfs-progs",
    "cryptsetup": "cryptsetup-bin",
    "dd": "coreutils",
    "dmsetup": "dmsetup",
    "e2fsck": "e2fsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "mount": "mount",
    "nbd-client": "nbd-client",
    "partx": "util-linux",
    "sfdisk": "fdisk",
    "sgdisk": "gdisk",
    "sha256sum": "coreutils",
    "sync": "coreutils",
    "umount": "mount",
    "xfs_repair": "xfsprogs",
    "zfs": "zfs-fuse",
    "zfs-fuse": "zfs-fuse",
    "zpool": "zfs-fuse",
}
BUSYBOX = "busybox"
LOADED_BY_NAME = ("libgcc_s.so.1",)
"""The C library opens it when a thread ends (pthread_exit); no program names it."""
_PATHS = "/usr/sbin:/usr/bin:/sbin:/bin"
_INIT = f"""#!/bin/busybox sh
export PATH={_PATHS} HOME=/root LC_ALL=C
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /run/lock /tmp /root /mnt /var/run/zfs /var/lock /sbin
ln -s /bin/busybox /sbin/modprobe
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /run
mkdir -p /run/cryptsetup
mdev -s
for module in {" ".join(AT_ONCE)}; do modprobe $module; done
ip link set lo up
if [ -e /sys/class/net/eth0 ]; then ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; fi
until [ -c {PORT} ]; do sleep 0.01; done
cd /root
bash --noprofile --norc <>{PORT} >&0 2>&1
poweroff -f
"""


def missing() -> list[str]:
    """What a machine needs and this one lacks."""
    return [name for name in (*PROGRAMS, BUSYBOX) if _found(name) is None]


def build(kernel: Kernel) -> bytes:
    """The archive. Fails if a program of PROGRAMS is not here."""
    files = {"init": _INIT.encode(), "bin/busybox": _read(BUSYBOX), "etc/mke2fs.conf": _read("/etc/mke2fs.conf")}
    paths = [_require(name) for name in PROGRAMS]
    files |= {f"usr/sbin/{name}": path.read_bytes() for name, path in zip(PROGRAMS, paths, strict=True)}
    files |= {str(path)[1:]: path.read_bytes() for path in _libraries(paths)}
    return cpio.pack(files | _modules(kernel))


def _libraries(programs: list[Path]) -> set[Path]:
    """What the programs are linked with, and the loader, where they look for it."""
    said = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True, timeout=60).stdout
    found = {Path(path) for path in re.findall(r"^\t(?:\S+ => )?(/\S+) \(0x", said, re.MULTILINE)}
    beside = next(path for path in found if path.name == "libc.so.6").parent
    return found | {beside / name for name in LOADED_BY_NAME}


def _modules(kernel: Kernel) -> dict[str, bytes]:
    """The modules, and the tables by which modprobe finds them by name and by alias."""
    version = kernel.modules.parent.name
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        modules = root / "lib" / "modules" / version
        for name in MODULES:
            for source in _below(kernel.modules / name):
                target = modules / "kernel" / source.relative_to(kernel.modules)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        for name in ("modules.order", "modules.builtin"):
            shutil.copyfile(kernel.modules.parent / name, modules / name)
        subprocess.run([_require(BUSYBOX), "depmod", "-b", root, version], check=True, timeout=60)
        return {str(path.relative_to(root)): path.read_bytes() for path in modules.rglob("*") if path.is_file()}


def _below(path: Path) -> list[Path]:
    return sorted(path.rglob("*.ko")) if path.is_dir() else [path]


def _found(name: str) -> str | None:
    """Where it is; the system administrator's programs are not on everybody's PATH."""
    return shutil.which(name, path=_PATHS)


def _require(name: str) -> Path:
    path = _found(name)
    assert path is not None, f"{name} is not here"
    return Path(path)


def _read(name: str) -> bytes:
    return (Path(name) if name.startswith("/") else _require(name)).read_bytes()
