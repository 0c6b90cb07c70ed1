"""Linux's configfs-tsm as a real file system, by FUSE: what drivers/virt/coco/guest/report.c and fs/configfs do.

What matters of it: an attribute's text is made at the first read of an open file; `inblob` is taken over when its file
is closed, and a refusal is told to no one; `outblob` is made anew when it is first read after a write; `generation`
counts writes; a blob that is too long is EFBIG, and one read before `inblob` was written EINVAL.

The mount has no name: it is detached as soon as it stands, and ends with the last descriptor, however the tests end.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any, Protocol

import pytest

INBLOB_BYTES_MAX = 64
PRIVLEVEL_MAX = 3
WAIT_S = 10

Report = Callable[[bytes, int], tuple[bytes, bytes]]
"""The platform: inblob and privilege level in, outblob and auxblob out; an OSError's errno is what the reader gets."""


def failure(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@dataclass
class Entry:
    """One report's state in the kernel."""

    privlevel: int = 0
    inblob: bytes = b""
    write_generation: int = 0
    read_generation: int = 0
    blobs: tuple[bytes, bytes] | None = None

    def write(self, inblob: bytes) -> None:
        """What closing `inblob` does, ours or another program's."""
        self.advance()
        self.inblob = inblob

    def advance(self) -> None:
        if self.write_generation == self.read_generation - 1:
            raise failure(errno.EBUSY)
        self.write_generation += 1


@dataclass
class OpenFile:
    entry: Entry
    name: str
    made: bytes | None = None
    written: bytearray | None = None


def no_meddling(name: str, entry: Entry) -> None:
    """No other program does anything."""


@dataclass
class TsmKernel:
    """The kernel of a guest. Tests set and look at its fields as they like, while no call is under way.

    `floor` None: the platform knows no privilege levels. `meddle` is called whenever an attribute is opened. `written`:
    how many bytes each write of `inblob` had.
    """

    report: Report
    provider: str | None
    floor: int | None = None
    has_auxblob: bool = True
    blob_bytes_max: int = 32 << 10
    read_bytes_max: int = 1 << 20
    meddle: Callable[[str, Entry], None] = no_meddling
    entries: dict[str, Entry] = field(default_factory=dict)
    written: list[int] = field(default_factory=list)
    ready: Event = field(default_factory=Event)
    files: dict[int, OpenFile] = field(default_factory=dict)
    use_ns = True

    def init(self, path: str) -> None:
        self.ready.set()

    def destroy(self, path: str) -> None:
        pass

    def modes(self) -> dict[str, int]:
        """The attributes that an entry has, with their permissions."""
        modes = {"generation": 0o444, "provider": 0o444, "inblob": 0o200, "outblob": 0o444}
        if self.floor is not None:
            modes |= {"privlevel": 0o200, "privlevel_floor": 0o444}
        return modes | ({"auxblob": 0o444} if self.has_auxblob else {})

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        _, entry, *name = path.split("/")
        if (entry and entry not in self.entries) or (name and name[0] not in self.modes()):
            raise failure(errno.ENOENT)
        mode = stat.S_IFREG | self.modes()[name[0]] if name else stat.S_IFDIR | 0o755
        return {"st_mode": mode, "st_nlink": 1, "st_uid": os.getuid(), "st_gid": os.getgid()}

    def mkdir(self, path: str, mode: int) -> None:
        if path.count("/") > 1:
            raise failure(errno.EPERM)
        if self.provider is None:
            raise failure(errno.ENXIO)
        self.entries[path[1:]] = Entry()

    def rmdir(self, path: str) -> None:
        del self.entries[path[1:]]

    def create(self, path: str, mode: int) -> int:
        raise failure(errno.EACCES)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        """What O_TRUNC asks for is of no consequence."""

    def open(self, path: str, flags: int) -> int:
        _, entry, name = path.split("/")
        wanted = {os.O_RDONLY: 0o400, os.O_WRONLY: 0o200, os.O_RDWR: 0o600}[flags & os.O_ACCMODE]
        if wanted & ~self.modes()[name]:
            raise failure(errno.EACCES)
        self.meddle(name, self.entries[entry])
        handle = max(self.files, default=0) + 1
        self.files[handle] = OpenFile(self.entries[entry], name)
        return handle

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        file = self.files[fh]
        if file.made is None:
            file.made = self._blob(file) if file.name in ("outblob", "auxblob") else self._text(file)
        return file.made[offset : offset + min(size, self.read_bytes_max)]

    def _text(self, file: OpenFile) -> bytes:
        if self.provider is None and file.name != "generation":
            raise failure(errno.ENXIO)
        shown = {"generation": file.entry.write_generation, "provider": self.provider, "privlevel_floor": self.floor}
        return f"{shown[file.name]}\n".encode()

    def _blob(self, file: OpenFile) -> bytes:
        entry = file.entry
        if not entry.inblob:
            raise failure(errno.EINVAL)
        if entry.blobs is None or entry.read_generation != entry.write_generation:
            entry.blobs = None
            entry.blobs = self.report(entry.inblob, entry.privlevel)
            entry.read_generation = entry.write_generation
        blob = entry.blobs[file.name == "auxblob"]
        if len(blob) > self.blob_bytes_max:
            raise failure(errno.EFBIG)
        return blob

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        file = self.files[fh]
        if file.name == "privlevel":
            return self._store_privlevel(file.entry, data)
        if offset + len(data) > INBLOB_BYTES_MAX:
            raise failure(errno.EFBIG)
        file.written = file.written or bytearray()
        file.written[offset:] = data
        self.written.append(len(data))
        return len(data)

    def _store_privlevel(self, entry: Entry, data: bytes) -> int:
        level = int(data)
        if self.floor is None or not self.floor <= level <= PRIVLEVEL_MAX:
            raise failure(errno.EINVAL)
        entry.advance()
        entry.privlevel = level
        return len(data)

    def flush(self, path: str, fh: int) -> None:
        """What configfs does at release; of that one FUSE would not wait for the end before close() returns."""
        file = self.files[fh]
        if file.written is not None:
            with suppress(OSError):
                file.entry.write(bytes(file.written))
            file.written = None

    def release(self, path: str, fh: int) -> None:
        del self.files[fh]


class FileSystem(Protocol):
    """What mfusepy calls; `ready` is to be set by its `init`."""

    ready: Event


LIBFUSES_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)


@contextmanager
def mounted(operations: FileSystem, folder: Path) -> Iterator[Path]:
    """Run `operations` as a file system for as long as the context lasts. Skips the test where this cannot be."""
    untested = "EVIDENCE DEVICES NOT TESTED:"
    try:
        import mfusepy  # noqa: PLC0415  (it looks for libfuse, which need not be there)
    except (ImportError, OSError) as error:
        pytest.skip(f"{untested} {error}; install mfusepy and fuse3")
    fusermount = shutil.which("fusermount3") or shutil.which("fusermount")
    if fusermount is None or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip(f"{untested} /dev/fuse or fusermount is missing")
    options = {"foreground": True, "nothreads": True, "direct_io": True, "entry_timeout": 0, "attr_timeout": 0}

    def serve() -> None:
        with suppress(RuntimeError):  # it cannot be mounted: said below
            mfusepy.FUSE(operations, str(folder), **options)

    before = {number: signal.getsignal(number) for number in LIBFUSES_SIGNALS}
    thread = Thread(target=serve, daemon=True)
    thread.start()
    while not operations.ready.wait(0.01):
        if not thread.is_alive():
            pytest.skip(f"{untested} FUSE may not be mounted here")
    _restore(before)
    root = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        subprocess.run([fusermount, "-u", "-z", folder], check=True, timeout=WAIT_S)
        yield Path(f"/proc/self/fd/{root}")
    finally:
        os.close(root)
        thread.join(WAIT_S)
        assert not thread.is_alive()
        _restore(before)


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    """libfuse takes signals when it starts, and when it ends it leaves them at their defaults: SIGPIPE kills then."""
    for number, handler in handlers.items():
        signal.signal(number, handler)
