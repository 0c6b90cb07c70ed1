"""Python's file objects over a volume's files."""

from __future__ import annotations

import io
import os
from typing import IO, TYPE_CHECKING, Any, Literal, get_args

from perdure.errors import Misuse
from perdure.volume.file import File

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from perdure.volume.volume import Volume

TextAccess = Literal["r", "r+", "w", "w+", "a", "a+", "x", "x+"]
BinaryAccess = Literal["rb", "r+b", "wb", "w+b", "ab", "a+b", "xb", "x+b"]


class Stream(io.RawIOBase):
    """An unbuffered file object. `write` is in the volume when it returns, and durable after `Volume.sync`."""

    def __init__(self, volume: Volume, file: File, *, reads: bool, writes: bool, appends: bool) -> None:
        super().__init__()
        self._volume, self._file = volume, file
        self._reads, self._writes, self._appends = reads, writes, appends
        self._at = file.size if appends else 0
        self.name = file.name

    def readable(self) -> bool:
        """Whether it was opened for that."""
        return self._reads

    def writable(self) -> bool:
        """Whether it was opened for that."""
        return self._writes

    def seekable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer` as far as the file goes; how many bytes that was."""
        self._require(self._reads, "reading")
        view = memoryview(buffer).cast("B")
        data = self._volume.read(self._file, self._at, len(view))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def write(self, data: ReadableBuffer) -> int:
        """Write all of it; at the file's end when it was opened to append."""
        self._require(self._writes, "writing")
        view = memoryview(data).cast("B")
        if self._appends:
            self._at = self._file.size
        self._volume.write(self._file, self._at, view)
        self._at += len(view)
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to an offset from the start, here or the end; where that is."""
        self._require(True, "")
        bases = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}
        if whence not in bases:
            raise ValueError(f"whence is {whence}, not 0, 1 or 2")
        at = bases[whence] + offset
        if at < 0:
            raise OSError(f"negative seek position {at}")
        self._at = at
        return at

    def truncate(self, size: int | None = None) -> int:
        """Cut or lengthen the file, to where the stream is if no size is given; that size."""
        self._require(self._writes, "writing")
        size = self._at if size is None else size
        self._volume.truncate(self._file, size)
        return size

    def _require(self, is_allowed: bool, what: str) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file.")
        if not is_allowed:
            raise io.UnsupportedOperation(f"the file {self.name!r} was not opened for {what}")


def open_stream(volume: Volume, name: str, mode: TextAccess | BinaryAccess, newline: str | None) -> IO[Any]:
    """See `Volume.open`."""
    if mode not in get_args(TextAccess) + get_args(BinaryAccess):
        raise Misuse(f"A file is opened with a mode such as 'rb' or 'w+', not {mode!r}; nothing was changed.")
    kind = mode[0]
    if kind == "x" or (kind != "r" and name not in volume):
        volume.create(name)
    file = volume.file(name)
    if kind == "w":
        volume.truncate(file, 0)
    both = "+" in mode
    raw = Stream(volume, file, reads=both or kind == "r", writes=both or kind != "r", appends=kind == "a")
    buffered: Any = (io.BufferedRandom if both else io.BufferedReader if kind == "r" else io.BufferedWriter)(raw)
    return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding="utf-8", newline=newline)
