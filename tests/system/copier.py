"""Copies the Python standard library batch by batch; a process of its own.

    python -m tests.system.copier TARGET

A line on standard input lets it begin the next batch; `synced N` on standard output says that batch N, and with it
all before, is durable as far as the operating system is told. It ends at the first error, as a program would.
Every batch goes into a directory of its own: without a journal, ext4 may lose a name out of a directory that is being
changed when the machine stops, synced or not.
"""

from __future__ import annotations

import ctypes
import os
import sys
import sysconfig
from pathlib import Path

BATCH_COUNT = 12
LIBRARY = Path(sysconfig.get_path("stdlib"))
_SKIPPED = ("__pycache__", "site-packages", "dist-packages", "test", "idlelib", "config-")


def batches() -> list[list[Path]]:
    """The files of the library, relative to it, dealt out so that every batch has its share of small and large ones."""
    files = []
    for directory, names, found in os.walk(LIBRARY):
        names[:] = sorted(name for name in names if not name.startswith(_SKIPPED))
        files += [(Path(directory) / name).relative_to(LIBRARY) for name in sorted(found)]
    return [files[number::BATCH_COUNT] for number in range(BATCH_COUNT)]


def place(root: Path, number: int, file: Path) -> Path:
    """Where a file of a batch goes."""
    return root / f"batch-{number}" / file


def main(root: Path) -> None:
    """Copy all batches, as far as standard input lets us."""
    libc = ctypes.CDLL(None, use_errno=True)
    for number, files in enumerate(batches()):
        if not sys.stdin.readline():
            return
        for file in files:
            target = place(root, number, file)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as copy:
                copy.write((LIBRARY / file).read_bytes())
                if len(sys.argv) > 2:  # this file system does not hear syncfs
                    os.fsync(copy.fileno())
        fd = os.open(root, os.O_RDONLY)
        os.fsync(fd)
        if libc.syncfs(fd):
            raise OSError(ctypes.get_errno(), "syncfs")
        os.close(fd)
        print("synced", number, flush=True)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except OSError as error:
        sys.exit(f"copier: {error}")
