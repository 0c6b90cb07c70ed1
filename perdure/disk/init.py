"""The first process of a disk's image: what a bare kernel lacks for one program, then that program in its place.

It mounts the kernel's file systems, loads the modules that the image brings, tells a Nitro parent that the enclave
runs, gives the machine its address, and waits until the kernel's random numbers are good. Then it becomes the disk,
so when the disk ends the kernel stops, and with it all that the disk held.

What decides is in the image, hence measured: `/boot.json`. The kernel's command line holds hints of the host: how
much memory to lend, where to listen, this machine's address. None of them can make the disk say anything untrue.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
from pathlib import Path

BOOT_FILE = "/boot.json"
AUTHORITY_FILE = "/authority.pub"
START = "import sys; sys.path.insert(0, '/perdure-disk'); from perdure.disk.main import main; sys.exit(main())"
"""Not `python DIRECTORY`, which takes modules that nothing else needs."""
HEARTBEAT = b"\xb7"
"""What an enclave sends to its parent, who sends it back (aws-nitro-enclaves-sdk-bootstrap, init)."""
SPARE_BYTES = 96 << 20
"""Left to the kernel and the interpreter when the host does not say how much to lend."""
GRANULE_BYTES = 1 << 20
_MOUNTS = (
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("configfs", "/sys/kernel/config"),  # only where the modules have brought it
)
_FINIT_MODULE = 313  # x86-64
_SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCADDRT = 0x8916, 0x891C, 0x8913, 0x8914, 0x890B
_IFF_UP = 1
_ANY = "0.0.0.0"  # noqa: S104  (a route's, not a listener's)
_RTF_UP_GATEWAY = 3
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Boot; never returns. Anything that fails ends the process, and with it the machine."""
    boot = json.loads(Path(BOOT_FILE).read_text())
    mount(_MOUNTS[:3])
    for name in boot["modules"]:
        load_module(f"/modules/{name}")
    mount(_MOUNTS[3:] if Path(_MOUNTS[3][1]).is_dir() else ())
    hints = parse_hints(Path("/proc/cmdline").read_text())
    if boot["heartbeat"] is not None:
        beat(*boot["heartbeat"])
    if "ip" in hints:
        set_address("lo", "127.0.0.1/8")
        set_address("eth0", *hints["ip"].split(","))
    os.getrandom(1)  # returns once the kernel's generator is seeded, and not before
    listen = hints.get("listen", boot["listen"])
    size = hints.get("size") or str(spare_memory(Path("/proc/meminfo").read_text()))
    disk = ["--listen", listen, "--size-bytes", size, "--evidence", boot["evidence"], "--authority", AUTHORITY_FILE]
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-B", "-c", START, *disk])  # noqa: S606


def mount(mounts: tuple[tuple[str, str], ...]) -> None:
    """Mount each (kind, directory). Raises OSError."""
    for kind, directory in mounts:
        os.makedirs(directory, exist_ok=True)
        if _libc.mount(kind.encode(), directory.encode(), kind.encode(), 0, None):
            raise OSError(ctypes.get_errno(), f"cannot mount {kind}")


def load_module(path: str) -> None:
    """Load one kernel module. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if _libc.syscall(_FINIT_MODULE, fd, b"", 0):
        raise OSError(ctypes.get_errno(), f"cannot load {path}")
    os.close(fd)


def parse_hints(cmdline: str) -> dict[str, str]:
    """The words `perdure.NAME=VALUE` of a kernel command line; the last of equal names counts."""
    words = (word.partition("=") for word in cmdline.split() if word.startswith("perdure."))
    return {name.removeprefix("perdure."): value for name, _, value in words}


def beat(cid: int, port: int) -> None:
    """Tell the parent that the enclave runs; without this `nitro-cli run-enclave` gives up. Raises OSError."""
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as parent:
        parent.connect((cid, port))
        parent.sendall(HEARTBEAT)
        if parent.recv(1) != HEARTBEAT:
            raise OSError("the parent does not return the heartbeat")


def set_address(interface: str, address: str, gateway: str | None = None) -> None:
    """Give an interface an IPv4 address ("A.B.C.D/PREFIX"), bring it up, and route by `gateway`. Raises OSError."""
    host, _, prefix = address.partition("/")
    mask = socket.inet_ntoa(struct.pack(">I", 0xFFFFFFFF << 32 - int(prefix) & 0xFFFFFFFF))
    name = struct.pack("16s", interface.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFADDR, name + _sockaddr(host))
        fcntl.ioctl(control, _SIOCSIFNETMASK, name + _sockaddr(mask))
        (flags,) = struct.unpack_from("h", fcntl.ioctl(control, _SIOCGIFFLAGS, name + bytes(16)), 16)
        fcntl.ioctl(control, _SIOCSIFFLAGS, name + struct.pack("h14x", flags | _IFF_UP))
        if gateway is not None:  # struct rtentry: pad, destination, gateway, mask, flags, and fields that are zero
            addresses = _sockaddr(_ANY) + _sockaddr(gateway) + _sockaddr(_ANY)
            fcntl.ioctl(control, _SIOCADDRT, bytes(8) + addresses + struct.pack("h62x", _RTF_UP_GATEWAY))


def _sockaddr(host: str) -> bytes:
    return struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(host))


def spare_memory(meminfo: str) -> int:
    """How many bytes to lend of what /proc/meminfo says is available, a multiple of 1 MiB."""
    (line,) = (line for line in meminfo.splitlines() if line.startswith("MemAvailable:"))
    available = int(line.split()[1]) * 1024
    return max(available - SPARE_BYTES - available // 16, 0) // GRANULE_BYTES * GRANULE_BYTES


if __name__ == "__main__":
    main()
