"""Memory that is freed is overwritten: so what was erased is not left behind in the main program (promise P6).

Plaintext and ciphertext pass through buffers of Python, NumPy, OpenSSL, the coding library and the event loop. None
of them can be trusted to wipe, but all of them give memory back to one place, the C library; and that one can be told
to overwrite whatever is freed (M_PERTURB, mallopt(3)). It reads its settings when a process starts, so `apply` starts
the program anew in its place.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from typing import Final

_PROBE_BYTES: Final = 4096
_PROBE: Final = 0x3C
"""Neither what freed blocks are filled with (165 is 0xA5) nor what new ones are, its complement: the copy that is
looked at may be made in the very block, and would then hold the latter."""
_TUNABLES: Final = {
    "glibc.malloc.tcache_count": 0,  # blocks in a thread's cache are not overwritten (malloc.c), so there is no cache
    # Not for wiping: buffers of a batch are kept by the allocator instead of being mapped and faulted in page by page
    # each time, which takes longer than coding them (docs/performance.md).
    "glibc.malloc.mmap_threshold": 2 << 20,
    "glibc.malloc.trim_threshold": 4 << 20,
}
SETTINGS: Final = {
    "MALLOC_PERTURB_": "165",
    "GLIBC_TUNABLES": ":".join(f"{name}={value}" for name, value in _TUNABLES.items()),
    "PYTHONMALLOC": "malloc",  # blocks in the pools of Python's own allocator for small objects are not overwritten
}


def environment(found: Mapping[str, str]) -> dict[str, str]:
    """`found` with the settings; other tunables of the C library stay."""
    parts = found.get("GLIBC_TUNABLES", "").split(":")
    others = [part for part in parts if part and part.partition("=")[0] not in _TUNABLES]
    return {**found, **SETTINGS, "GLIBC_TUNABLES": ":".join([*others, SETTINGS["GLIBC_TUNABLES"]])}


def apply() -> None:
    """Return if this process overwrites what it frees; else start it anew so that it does. Files stay open."""
    wanted = environment(os.environ)
    if os.environ != wanted:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)  # noqa: S606  (the same program)


def works() -> bool:
    """Whether freed memory is really overwritten here: it is not with every C library.

    Looks at a block that was freed a moment ago, which is only safe because nothing else runs in between.
    """
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    guard = library.malloc(_PROBE_BYTES)
    block = library.malloc(_PROBE_BYTES)
    above = library.malloc(_PROBE_BYTES)  # so that the block cannot be given back to the system
    ctypes.memset(block, _PROBE, _PROBE_BYTES)
    library.free(block)
    left = ctypes.string_at(block + _PROBE_BYTES // 4, _PROBE_BYTES // 2)  # allocators keep links at the start
    library.free(guard)
    library.free(above)
    return bytes([_PROBE]) * 16 not in left
