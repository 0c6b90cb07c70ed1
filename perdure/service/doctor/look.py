"""Facts about this machine, read where the kernel shows them, and handed to the judges in `machine` and `clients`."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from perdure.service.doctor import clients, machine
from perdure.service.doctor.clients import Attachment
from perdure.service.doctor.finding import Finding
from perdure.service.doctor.machine import Keeps, SwapArea

_CRYPT: Final = "CRYPT-"
"""What device-mapper's uuid of an encrypted device starts with."""
_SBIN: Final = "/usr/sbin:/sbin"


def this_machine(addresses: Sequence[str], size_bytes: int | None, main_pid: int | None) -> list[Finding]:
    """All findings about it, for a main program with disks at `addresses` and an array of `size_bytes`, if any.

    Limits are those of the main program `main_pid`, where one runs; else those of this process.
    """
    here = attachment()
    clock_state, clock_error_us = clock()
    return [
        machine.processor(platform.machine(), processor_flags()),
        machine.memory(available_bytes(), size_bytes, is_running=main_pid is not None),
        machine.swap(swap_areas(), limit(resource.RLIMIT_MEMLOCK, main_pid)),
        machine.core_dumps(_text("/proc/sys/kernel/core_pattern"), limit(resource.RLIMIT_CORE, main_pid)),
        machine.open_files(limit(resource.RLIMIT_NOFILE, main_pid)),
        machine.clock(clock_state, clock_error_us),
        clients.kernel_client(here),
        clients.fuse_client(here),
        clients.loop_devices(here),
        clients.vsock(addresses, has_vsock=Path("/dev/vsock").exists()),
    ]


def _text(path: str) -> str:
    """What the kernel shows there; nothing where it shows nothing."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def limit(kind: int, pid: int | None) -> int | None:
    """The soft limit of a process, of this one where `pid` is None or another user's; None for no limit."""
    soft = resource.getrlimit(kind)[0]
    if pid is not None:
        with suppress(PermissionError, ProcessLookupError):
            soft = resource.prlimit(pid, kind)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def available_bytes() -> int:
    """The memory that the kernel says is available, proc(5)."""
    for line in _text("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    return 0


def swap_areas() -> list[SwapArea]:
    """The swap areas in use, proc(5)."""
    names = [line.split()[0] for line in _text("/proc/swaps").splitlines()[1:]]
    return [SwapArea(name, _keeps(name)) for name in names]


def _keeps(name: str) -> Keeps:
    """A file counts as plain: what is below it is not looked at."""
    device = os.path.basename(os.path.realpath(name))
    if device.startswith("zram"):
        # Unless what does not compress is written back to a disk.
        backed = _text(f"/sys/block/{device}/backing_dev").strip()
        return Keeps.IN_RAM if backed in ("", "none") else Keeps.PLAIN
    return Keeps.ENCRYPTED if _text(f"/sys/block/{device}/dm/uuid").startswith(_CRYPT) else Keeps.PLAIN


def processor_flags() -> frozenset[str]:
    """The features of the first processor: `flags` on x86, `Features` on ARM."""
    for line in _text("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def attachment() -> Attachment:
    """What is here of NBD's clients."""
    release = platform.release()
    known = _text(f"/lib/modules/{release}/modules.builtin") + _text(f"/lib/modules/{release}/modules.dep")
    return Attachment(
        has_nbd_module=Path("/sys/module/nbd").exists() or Path("/dev/nbd0").exists() or "/nbd.ko" in known,
        has_nbd_client=_has_program("nbd-client"),
        has_fuse=Path("/dev/fuse").exists(),
        has_nbdfuse=_has_program("nbdfuse"),
        has_loop=Path("/dev/loop-control").exists(),
    )


def _has_program(name: str) -> bool:
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_SBIN}") is not None


# The clock ------------------------------------------------------------------------------------------------


class _Timex(ctypes.Structure):
    """The start of `struct timex`, adjtimex(2), and room for the rest of it."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def clock() -> tuple[int | None, int]:
    """The clock's state as adjtimex(2) returns it and its largest error in microseconds; None where it cannot be asked.

    With no modes set it reads and sets nothing.
    """
    found = _Timex()
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.byref(found))
    except AttributeError:
        return None, 0
    return (None if state < 0 else state), found.maxerror
