"""The disk program's entry: draw the instance, take memory, listen, serve for ever.

Everything on the command line is a hint from the host. What the hardware measures is the image: this program and
the authority's public key.
"""

from __future__ import annotations

import argparse
import mmap
import os
import sys
from pathlib import Path

from perdure.disk.address import listen
from perdure.disk.core import DiskCore
from perdure.disk.serve import Platform, Server
from perdure.disk.wire import DISK_SECTOR_BYTES

SIZE_BYTES_MAX = 0xFFFFFFFF * DISK_SECTOR_BYTES  # a command counts disk sectors in 32 bits


def main() -> None:
    """Serve one disk until the process is killed; nothing of it remains then."""
    parser = argparse.ArgumentParser(prog="perdure-disk", description="Lend this machine's memory as one disk.")
    parser.add_argument("--listen", required=True, metavar="ADDRESS")
    parser.add_argument("--size-bytes", required=True, type=int, metavar="N")
    parser.add_argument("--evidence", required=True, metavar="KIND:WHERE")
    parser.add_argument("--authority", required=True, type=Path, metavar="FILE")
    options = parser.parse_args()
    if not 0 < options.size_bytes <= SIZE_BYTES_MAX or options.size_bytes % DISK_SECTOR_BYTES:
        sys.exit(f"size must be a multiple of {DISK_SECTOR_BYTES} bytes up to {SIZE_BYTES_MAX}: {options.size_bytes}")
    try:
        # All of it now: memory that is not there must fail at the start, not at some later write.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        memory = memoryview(mmap.mmap(-1, options.size_bytes, flags))
        core = DiskCore(memory, os.urandom(32), options.authority.read_bytes(), os.urandom)
        platform = evidence(options.evidence)
        listener, address = listen(options.listen)
    except (OSError, ValueError) as error:
        sys.exit(f"the disk cannot start: {error}")
    server = Server(core, platform, listener)
    print("listening", address, flush=True)
    while True:
        server.step()


def evidence(where: str) -> Platform:
    """The door to the platform's evidence: `nsm:PATH`, `tsm:PATH`, `tpm:PATH`, or one of a simulated platform by FD.

    Each is a module of its own that only its platform's image contains.
    """
    kind, _, place = where.partition(":")
    if kind in ("nsm", "nsm-socket"):
        from perdure.disk import nsm  # noqa: PLC0415

        return nsm.NsmDevice(place) if kind == "nsm" else nsm.NsmSocket(int(place))
    if kind == "tsm":
        from perdure.disk.tsm import TsmReports  # noqa: PLC0415

        return TsmReports(place)
    if kind in ("tpm", "tpm-fd"):
        from perdure.disk.tpm import Tpm  # noqa: PLC0415

        return Tpm(os.open(place, os.O_RDWR | os.O_CLOEXEC) if kind == "tpm" else int(place))
    raise ValueError(f"no platform is called {kind!r:.40}")
