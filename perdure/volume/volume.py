"""Several named files on one array, for any thread. What is written, in which order: `perdure.volume.store`."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any, overload

from perdure.array.geometry import SECTOR_BYTES, Run
from perdure.array.ports import Buffer
from perdure.errors import Misuse
from perdure.volume.extents import Extents
from perdure.volume.file import Bytes, File
from perdure.volume.part import place_of
from perdure.volume.record import DATA_START, EXTENTS_MAX, FILES_MAX, Record, State, check_name
from perdure.volume.store import Store
from perdure.volume.stream import BinaryAccess, TextAccess, open_stream

_IN_USE: weakref.WeakKeyDictionary[Bytes, list[Run]] = weakref.WeakKeyDictionary()
"""The sectors of each array that are open as volumes."""
_GUARD = threading.Lock()


class Volume:
    """The files of an array; every method may be called from any thread, and blocks it, but from no signal's handler.

    Makes a volume on an array that is zeros throughout. After a crash each change is there whole or not at all, what
    came before `sync` is there, and what is there is a prefix of what was done. Until `sync` a change may be in memory
    alone, however long ago it was made: the array's own `flush` does not cover it, and what is written to the array
    beside the volume may overtake it. Everything raises what the array raises; a change that failed half-way ends the
    volume: then all raises Misuse until it is opened anew.

    Raises Misuse if the array holds something else, is too small, or is open as a volume in this process already, it or
    a part of it that overlaps; Corrupt if its records were written over.
    """

    def __init__(self, array: Bytes) -> None:
        self._array = array
        self._lock = threading.RLock()
        self._is_inside = False
        """Whether the thread that has the lock is in the middle of something."""
        self._ended: str | None = None
        self.sync_count = 0
        """Rises with every `sync` that has returned."""
        if array.size <= DATA_START * SECTOR_BYTES:
            raise Misuse(
                f"A volume needs more than {DATA_START} sectors of {SECTOR_BYTES} bytes, and this array has "
                f"{array.size // SECTOR_BYTES}; nothing was changed. Make a larger array."
            )
        self._whole, self._run = place_of(array)
        with _GUARD:
            runs = _IN_USE.setdefault(self._whole, [])
            if any(run.start < self._run.end and self._run.start < run.end for run in runs):
                raise Misuse("This array is open as a volume already; nothing was changed. Use that one for all files.")
            runs.append(self._run)
        self._store = Store(array)
        with self._changing():
            self._store.open()

    # Names ------------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """Of all files, sorted."""
        with self._opened():
            return sorted(self._store.files)

    @property
    def free_bytes(self) -> int:
        """What files can grow by, all together; a record has room for 480 runs of sectors."""
        with self._opened():
            return self._store.free_sectors * SECTOR_BYTES

    def __contains__(self, name: object) -> bool:
        with self._opened():
            return name in self._store.files

    def file(self, name: str) -> File:
        """The file `name`. Raises Misuse when there is none."""
        with self._opened():
            return self._named(name)

    def create(self, name: str) -> File:
        """A new, empty file. Raises Misuse if it is there, for names that do not fit, and for more than 255 files."""
        check_name(name)
        with self._opened():
            files = self._store.files
            if name in files:
                raise Misuse(f"The volume has a file {name!r} already; nothing was changed.")
            places = set(range(FILES_MAX)) - {file.place for file in files.values()}
            if not places:
                raise Misuse(f"The volume has {FILES_MAX} files, and no more fit; nothing was changed. Delete one.")
            file = File(min(places), Record(name, State.QUIET, 0, ()))
            with self._changing():
                self._store.create(file)
            return file

    def delete(self, name: str) -> None:
        """Delete a file in one step, and wipe what it held. Raises Misuse when there is none.

        What it held is gone from every live disk once `sync` has returned and the array has come to rest.
        """
        with self._opened():
            file = self._named(name)
            with self._changing():
                self._store.delete(file)

    @overload
    def open(self, name: str, mode: TextAccess, *, newline: str | None = None) -> IO[str]: ...

    @overload
    def open(self, name: str, mode: BinaryAccess = "rb") -> IO[bytes]: ...

    def open(self, name: str, mode: TextAccess | BinaryAccess = "rb", *, newline: str | None = None) -> IO[Any]:
        """A buffered file object as `open` gives it, in text (UTF-8) or binary.

        Its `flush` and `close` give to the volume what it buffers; `Volume.sync` then makes that durable. Raises Misuse
        for another mode, for "x" when the file is there, and for "r" when it is not.
        """
        return open_stream(self, name, mode, newline)

    # Bytes ------------------------------------------------------------------------------------------------

    def read(self, file: File, offset: int, length: int) -> bytes:
        """`length` bytes of a file from `offset`, fewer at its end."""
        with self._opened(file, offset, length):
            return self._store.read(file, offset, length)

    def write(self, file: File, offset: int, data: Buffer) -> None:
        """Write `data` at `offset`; what is between the file's end and `offset` becomes zeros.

        What is behind the file's old end is there, after a crash, once all of it is. Raises Misuse when the volume is
        full; then nothing was changed.
        """
        view = memoryview(data).cast("B")
        with self._opened(file, offset, len(view)):
            if view:
                self._write(file, offset, view)

    def truncate(self, file: File, size: int) -> None:
        """Cut the file, or lengthen it with zeros, to `size`, in one step. Raises Misuse as `write` does."""
        with self._opened(file, size):
            if size > file.size:
                self._write(file, size, memoryview(b""))
            elif size < file.size:
                with self._changing():
                    self._store.shrink(file, size)

    def sync(self) -> None:
        """Return when all that was done to any file survives n-k losses, as `Array.flush` has it."""
        with self._opened(), self._changing():
            self._store.send()
        self._array.flush()  # without the lock: others go on meanwhile, and flushes share evidence
        with self._lock:
            self.sync_count += 1

    def close(self) -> None:
        """Give back what files did not use, sync, and let go of the array."""
        with self._alone():
            if self._ended is None:
                with self._changing():
                    self._store.settle()
                    self._store.send()
                    self._array.flush()
                self._end("it was closed")

    def __enter__(self) -> Volume:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:  # perhaps it was the array that failed; what is not settled is settled when it is opened
            with self._lock:  # whoever is in the middle of a change shall not go on beside the next volume
                self._end("what used it failed")

    # Inside -----------------------------------------------------------------------------------------------

    def _named(self, name: str) -> File:
        if name not in self._store.files:
            raise Misuse(f"The volume has no file {name[:60]!r}; nothing was changed. `names` lists what it has.")
        return self._store.files[name]

    def _write(self, file: File, offset: int, view: memoryview) -> None:
        extents = self._room(file, offset + len(view))  # raises before anything is changed
        with self._changing():
            self._store.write(file, offset, view, extents)

    def _room(self, file: File, end: int) -> Extents:
        """The extents with which `file` can grow to `end` bytes. Raises Misuse."""
        for is_tight in (False, True):
            extents = self._store.room(file, end, is_tight=is_tight)
            if extents is not None:
                return extents
        with self._changing():
            self._store.settle()
        extents = self._store.room(file, end, is_tight=True)
        if extents is not None:
            return extents
        raise Misuse(
            f"The volume is full: {file.name!r} cannot grow to {end} bytes in at most {EXTENTS_MAX} runs of sectors, "
            f"{self._store.free_sectors} sectors are free; nothing was changed. Delete files, or use a larger array."
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other thread, and not this one twice, which would find a change half made and go on from there."""
        with self._lock:
            if self._is_inside:
                raise Misuse(
                    "The volume was called from within itself, by a signal's handler or for a file object that was "
                    "never closed; this call changed nothing. Let a handler only take note, and close files."
                )
            self._is_inside = True
            try:
                yield
            finally:
                self._is_inside = False

    @contextmanager
    def _opened(self, file: File | None = None, offset: int = 0, length: int = 0) -> Iterator[None]:
        """Alone with an open volume, and with a file that is there and a range that may be."""
        with self._alone():
            if self._ended is not None:
                raise Misuse(
                    f"The volume is not open any more: {self._ended}. What was synced is safe; open the array and the "
                    "volume anew."
                )
            if file is not None and file.state is State.DELETED:
                raise Misuse(f"The file {file.name!r} was deleted; nothing was changed.")
            if offset < 0 or length < 0:
                raise Misuse(f"{length} bytes from {offset} are not in any file; nothing was changed.")
            yield

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """What fails within leaves the array in the middle of a change, which only opening anew can finish."""
        try:
            yield
        except BaseException as why:
            self._end(f"a change failed half-way ({str(why) or type(why).__name__})")
            raise

    def _end(self, why: str) -> None:
        if self._ended is None:
            self._ended = why
            with _GUARD:
                _IN_USE[self._whole].remove(self._run)
