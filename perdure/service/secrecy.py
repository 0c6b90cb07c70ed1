"""Keeping what is in this process to it: no core files, no memory for others to read, and none of it swapped.

The key and plaintext are here for as long as the main program runs. Whoever is root on this machine reads them all the
same; this is against what outlives the process, on disks that are not ours.
"""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path
from typing import Final

_PR_SET_DUMPABLE: Final = 4
_MCL_CURRENT_FUTURE_ONFAULT: Final = 1 | 2 | 4
_CAP_IPC_LOCK: Final = 14


def apply() -> bool:
    """Do all that this process may; whether its memory is locked. Never fails: a main program serves without it too.

    A limit of 1 for core files, since 0 still lets a kernel pipe a core to a program (do_coredump, fs/coredump.c).
    """
    library = ctypes.CDLL(None)
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    limit = 1 if hard == resource.RLIM_INFINITY or hard >= 1 else 0
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
    library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    # Where the amount is limited, locking what comes later would make later allocations fail.
    return _may_lock_all() and library.mlockall(_MCL_CURRENT_FUTURE_ONFAULT) == 0


def _may_lock_all() -> bool:
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        return True
    status = Path("/proc/self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> _CAP_IPC_LOCK & 1)
